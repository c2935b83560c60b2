// Runs a fuzz target without a fuzzer: every file of the folders named, then a few hundred seeded
// mutations of each, so that an ordinary build notices what is broken.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutations = 300;

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Mutate(std::string& bytes, std::mt19937_64& random) {
  const size_t at = bytes.empty() ? 0 : random() % bytes.size();
  switch (random() % 4) {
    case 0:
      if (!bytes.empty()) bytes[at] = static_cast<char>(random());
      break;
    case 1:
      bytes.resize(at);
      break;
    case 2:
      bytes.insert(at, std::string(random() % 9, static_cast<char>(random())));
      break;
    default:
      bytes.erase(at, random() % 9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) paths.push_back(entry);
  }
  if (paths.empty()) {
    std::fprintf(stderr, "no files: name folders of inputs\n");
    return 1;
  }
  std::sort(paths.begin(), paths.end());
  std::mt19937_64 random(1);
  for (const auto& path : paths) {
    const std::string bytes = Read(path);
    for (int i = 0; i <= kMutations; ++i) {
      std::string changed = bytes;
      for (int change = 0; change < std::min(i, 1 + i % 3); ++change) Mutate(changed, random);
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(changed.data()), changed.size());
    }
  }
  std::printf("%zu inputs, %d mutations of each\n", paths.size(), kMutations);
  return 0;
}
