#include "src/cli/command.h"

int main(int argc, char** argv) { return mnemo::RunCommandLine(argc, argv, mnemo::AllCommands()); }
