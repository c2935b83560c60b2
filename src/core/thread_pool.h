// Data-parallel loops over the CPU's cores. Work is cut by shape, never by the number of threads,
// so that results do not depend on how many there are.
#pragma once

#include <cstdint>
#include <functional>

namespace mnemo {

// Calls body(begin, end) on disjoint ranges that cover [0, count), each at most `grain` long and
// starting at a multiple of it; returns when all are done. The caller takes part. Ranges run on the
// pool of the calling thread (see SetThreadsForThisThread); nested calls run inline. An exception
// thrown by a body is rethrown here, after the rest has finished.
void ParallelFor(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// How many threads ParallelFor uses when called from this thread, itself included; >= 1. The
// default is the number of cores the process may run on. Rank threads set 1.
void SetThreadsForThisThread(int threads);
int ThreadsForThisThread();

}  // namespace mnemo
