// MPI's error codes as Status.
#pragma once

#include <mpi.h>

#include "absl/status/status.h"

namespace mnemo::internal {

// OK, or Internal: "rank 2: MPI_Isend failed at src/...:12: message of MPI".
absl::Status MpiStatus(int code, const char* call, const char* file, int line);

}  // namespace mnemo::internal

// Evaluates an MPI call, such as MNEMO_MPI(MPI_Barrier(comm)), to a Status.
#define MNEMO_MPI(call) ::mnemo::internal::MpiStatus((call), #call, __FILE__, __LINE__)
