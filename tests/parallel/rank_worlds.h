// Worlds of ranks to run a test on. Two implementations, one linked into each test program: ranks
// as threads (thread_worlds.cc), worlds of 1 to 5; and ranks as processes under mpirun
// (mpi_worlds.cc, which also holds main), one world. Messages are held back by random times.
#pragma once

#include <functional>
#include <memory>

#include "src/parallel/communicator.h"
#include "src/parallel/transport.h"

namespace mnemo {

// What one rank of a world runs. Assertions inside are fine; an error or an exception, too, fails
// the test, and aborts the world.
using RankBody = std::function<void(Transport&)>;

// Runs the body on every rank of every world of at least `smallest` ranks. Fails if there was none.
void ForEachWorld(const RankBody& body, int smallest = 1);

// Runs the body on every rank of one world of exactly `ranks`; under mpirun it must be that many.
void OnWorldOf(int ranks, const RankBody& body);

// The longest a test waits for anything. Far longer than needed, to be safe on a busy machine.
inline constexpr Timeout kPatience = std::chrono::seconds(60);

// The communicator of all ranks of the transport, on a channel.
std::unique_ptr<Communicator> MakeWorld(Transport& transport, int channel = 1);

}  // namespace mnemo

#define EXPECT_OK(expression)                                 \
  do {                                                        \
    const ::absl::Status mnemo_status = (expression);         \
    EXPECT_TRUE(mnemo_status.ok()) << mnemo_status.message(); \
  } while (0)
#define ASSERT_OK(expression)                                 \
  do {                                                        \
    const ::absl::Status mnemo_status = (expression);         \
    ASSERT_TRUE(mnemo_status.ok()) << mnemo_status.message(); \
  } while (0)
