#include "src/cli/command.h"

namespace {

// In the order in which --help lists them.
constexpr mnemo::AddCommand kCommands[] = {mnemo::AddTrainCommand,  mnemo::AddPlanCommand,
                                           mnemo::AddDataCommand,   mnemo::AddEvalCommand,
                                           mnemo::AddExportCommand, mnemo::AddGenerateCommand,
                                           mnemo::AddBenchCommand};

}  // namespace

int main(int argc, char** argv) { return mnemo::RunCommandLine(argc, argv, kCommands); }
