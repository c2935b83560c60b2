// Scripts of other programs: what they print arrives, and what goes wrong with them is said. A
// shell stands in for Python.
#include "src/cli/python_script.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class PythonScriptTest : public testing::Test {
 protected:
  absl::Status Run(const std::string& text, const std::vector<std::string>& arguments = {}) {
    WriteText(script_, text);
    testing::internal::CaptureStdout();
    const absl::Status status =
        RunPythonScript("/bin/sh", script_, arguments,
                        [this](const nlohmann::json& line) { said_.push_back(line); });
    printed_ = testing::internal::GetCapturedStdout();
    return status;
  }

  const TestDirectory directory_;
  const std::string script_ = directory_ / "a.sh";
  std::vector<nlohmann::json> said_;
  std::string printed_;
};

TEST_F(PythonScriptTest, ObjectsAreTakenAndOtherLinesPassedOn) {
  const absl::Status status =
      Run("echo \"$1\"\necho '{broken'\necho '{\"b\": 2}'\necho words\n", {"{\"a\": \"it's\"}"});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(said_, ElementsAre(nlohmann::json{{"a", "it's"}}, nlohmann::json{{"b", 2}}));
  EXPECT_EQ(printed_, "{broken\nwords\n");
}

TEST_F(PythonScriptTest, AFailureComesAfterWhatWasSaid) {
  const absl::Status status = Run("echo '{\"a\": 1}'\nexit 3\n");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr(script_ + " ended with code 3"));
  EXPECT_EQ(said_.size(), 1u);
  EXPECT_THAT(Run("kill -9 $$\n").message(), HasSubstr("ended by signal 9"));
}

TEST_F(PythonScriptTest, APythonThatIsNotThereIsNotFound) {
  const absl::Status status =
      RunPythonScript(directory_ / "none", script_, {}, [](const nlohmann::json&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("none does not start: No such file"));
}

TEST_F(PythonScriptTest, ABundleGivesItTheLibraryPathFromOutside) {
  setenv("MNEMO_BUNDLE", "/bundle", 1);
  setenv("LD_LIBRARY_PATH", "/bundle/lib", 1);
  setenv("MNEMO_OUTER_LIBRARY_PATH", "/outer", 1);
  const absl::Status status = Run("echo \"path $LD_LIBRARY_PATH\"\n");
  for (const char* name : {"MNEMO_BUNDLE", "LD_LIBRARY_PATH", "MNEMO_OUTER_LIBRARY_PATH"}) {
    unsetenv(name);
  }
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(printed_, "path /outer\n");
}

}  // namespace
}  // namespace mnemo
