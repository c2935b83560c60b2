#include <array>

#include "src/cli/command.h"

namespace {

// In the order in which --help lists them.
constexpr std::array<mnemo::AddCommand, 0> kCommands = {};

}  // namespace

int main(int argc, char** argv) { return mnemo::RunCommandLine(argc, argv, kCommands); }
