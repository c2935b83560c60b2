#include "src/cli/python_script.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>

#include "src/core/status.h"

namespace mnemo {
namespace {

namespace stdfs = std::filesystem;

std::vector<std::string> Environment() {
  constexpr std::string_view kPath = "LD_LIBRARY_PATH=";
  const bool in_bundle = std::getenv("MNEMO_BUNDLE") != nullptr;
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (in_bundle && std::string_view(*variable).starts_with(kPath)) continue;
    variables.emplace_back(*variable);
  }
  const char* outer = std::getenv("MNEMO_OUTER_LIBRARY_PATH");
  if (in_bundle && outer != nullptr) variables.push_back(std::string(kPath) + outer);
  return variables;
}

std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Starts `words`, with its standard output into `output`; 0 or an error number.
int Start(std::vector<std::string> words, int output, pid_t& process) {
  std::vector<std::string> environment = Environment();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  const int error = posix_spawnp(&process, words[0].c_str(), &actions, nullptr,
                                 Pointers(words).data(), Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

void ReadLines(FILE* from, const std::function<void(const nlohmann::json&)>& take) {
  char* line = nullptr;
  size_t room = 0;
  for (ssize_t length; (length = getline(&line, &room, from)) >= 0;) {
    const std::string_view text(line, static_cast<size_t>(length));
    const auto json = text.starts_with("{")
                          ? nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false)
                          : nlohmann::json(nlohmann::json::value_t::discarded);
    if (json.is_object()) {
      take(json);
    } else {
      std::fwrite(text.data(), 1, text.size(), stdout);
    }
  }
  std::free(line);
}

}  // namespace

absl::StatusOr<std::string> BenchScript(const std::string& name) {
  std::error_code error;
  const stdfs::path here = stdfs::read_symlink("/proc/self/exe", error).parent_path();
  const stdfs::path script = here.parent_path() / "tests/bench" / name;
  if (!stdfs::exists(script, error)) return NotFound("there is no {}", script.string());
  return script.string();
}

absl::Status RunPythonScript(const std::string& python, const std::string& script,
                             const std::vector<std::string>& arguments,
                             const std::function<void(const nlohmann::json&)>& take) {
  std::vector<std::string> words = {python, script};
  words.insert(words.end(), arguments.begin(), arguments.end());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Internal("no pipe: {}", std::strerror(errno));
  pid_t process = 0;
  const int error = Start(std::move(words), ends[1], process);
  close(ends[1]);
  const std::unique_ptr<FILE, int (*)(FILE*)> output(fdopen(ends[0], "r"), fclose);
  if (error != 0) return NotFound("{} does not start: {}", python, std::strerror(error));
  ReadLines(output.get(), take);
  int code = 0;
  while (waitpid(process, &code, 0) < 0 && errno == EINTR) {
  }
  if (code == 0) return absl::OkStatus();
  return WIFSIGNALED(code) ? Internal("{} was ended by signal {}", script, WTERMSIG(code))
                           : Internal("{} ended with code {}", script, WEXITSTATUS(code));
}

}  // namespace mnemo
