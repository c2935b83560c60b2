#include "src/cli/command.h"

namespace mnemo {

std::span<const AddCommand> AllCommands() {
  static constexpr AddCommand kCommands[] = {
      AddTrainCommand,      AddPlanCommand,   AddDataCommand,     AddEvalCommand,
      AddExportCommand,     AddCkptCommand,   AddGenerateCommand, AddBenchCommand,
      AddCoordinateCommand, AddStatusCommand, AddSaveCommand,     AddStopCommand};
  return kCommands;
}

}  // namespace mnemo
