#include "src/cli/command.h"

namespace mnemo {

std::span<const AddCommand> AllCommands() {
  static constexpr AddCommand kCommands[] = {AddTrainCommand, AddPlanCommand,   AddDataCommand,
                                             AddEvalCommand,  AddExportCommand, AddGenerateCommand,
                                             AddBenchCommand};
  return kCommands;
}

}  // namespace mnemo
