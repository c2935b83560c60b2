#include "src/core/cuda/device_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mnemo::cuda {
namespace {

using ::testing::HasSubstr;

DeviceFacts Hopper() {
  return {.driver = 13000,
          .runtime = 13000,
          .count = 2,
          .index = 1,
          .name = "NVIDIA H100",
          .major = 9,
          .minor = 0};
}

void ExpectRefused(const DeviceFacts& facts, const std::string& what,
                   const std::string& architecture = "90a") {
  const absl::Status status = CheckDevice(facts, {architecture});
  EXPECT_FALSE(status.ok());
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr(what));
  EXPECT_THAT(message, HasSubstr("cuda:"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(DeviceFacts, OneLineForEachThingThatIsMissing) {
  EXPECT_TRUE(CheckDevice(Hopper(), {"90a"}).ok());
  DeviceFacts facts = Hopper();
  facts.driver = 0;
  ExpectRefused(facts, "no NVIDIA driver");
  facts = Hopper();
  facts.driver = 12080;
  ExpectRefused(facts, "knows CUDA up to 12.8 and this program was built with 13.0");
  ExpectRefused(facts, "580 or newer");
  facts = Hopper();
  facts.count = 0;
  ExpectRefused(facts, "shows no GPU");
  facts = Hopper();
  facts.index = 2;
  ExpectRefused(facts, "sees 2 GPUs, cuda:0 to cuda:1");
  facts.index = -1;
  ExpectRefused(facts, "cuda:-1");
  facts = Hopper();
  facts.name = "NVIDIA A100";
  facts.major = 8;
  ExpectRefused(facts, "NVIDIA A100 (sm_80), but this program has kernels for sm_90a alone");
  ExpectRefused(facts, "-DMNEMO_CUDA_ARCHITECTURES=80,");
  ExpectRefused(Hopper(), "NVIDIA H100 (sm_90), but this program has kernels for sm_80 alone",
                "80");
  ExpectRefused(Hopper(), "-DMNEMO_CUDA_ARCHITECTURES=90a,", "80");
}

TEST(DeviceFacts, NewerDriversRunOlderPrograms) {
  DeviceFacts facts = Hopper();
  facts.driver = 14020;
  EXPECT_TRUE(CheckDevice(facts, {"90a"}).ok());
  facts.driver = 13000;
  facts.runtime = 13010;
  EXPECT_TRUE(CheckDevice(facts, {"90a"}).ok());
}

TEST(DeviceFacts, ArchitecturesRunOnLaterMinorOnes) {
  EXPECT_TRUE(RunsOn("80", 8, 0));
  EXPECT_TRUE(RunsOn("80", 8, 9));
  EXPECT_FALSE(RunsOn("86", 8, 0));
  EXPECT_FALSE(RunsOn("80", 9, 0));
  EXPECT_TRUE(RunsOn("90a", 9, 0));
  EXPECT_FALSE(RunsOn("100a", 10, 3));
  EXPECT_TRUE(RunsOn("100", 10, 3));
}

}  // namespace
}  // namespace mnemo::cuda
