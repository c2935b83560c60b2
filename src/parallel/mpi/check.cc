#include "src/parallel/mpi/check.h"

#include "src/core/status.h"

namespace mnemo::internal {

absl::Status MpiStatus(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING + 1] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const std::string_view whole = call;
  return Internal("rank {}: {} failed at {}:{}: {}", rank, whole.substr(0, whole.find('(')), file,
                  line, std::string_view(text, static_cast<size_t>(length)));
}

}  // namespace mnemo::internal
