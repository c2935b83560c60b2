// The role of a worker: this process as one rank of a training run, or as all of it.
#pragma once

#include "absl/status/statusor.h"
#include "src/job/training_run.h"

namespace mnemo {

struct WorkerRunOptions {
  // Transport, plan, resume_step, on_phase and wishes are filled in here. With a coordinator so is
  // the configuration.
  TrainingRunOptions run;
  bool join = false;         // a coordinator that serves run.run_directory
  double join_seconds = 60;  // for it to answer
};

// Under mpirun (which is known by its environment) one rank of as many as that started, otherwise
// the only one, and without MPI. SIGINT and SIGTERM, to any rank, stop the run after the step at
// hand, with a checkpoint; SIGUSR1 saves one. A rank in a job of many does not end at the second
// signal: mpirun passes on one for each that it gets.
//
// Ranks but the first log errors only. Where the run fails, every rank returns an error, but only
// one has a message: the others' is empty. After an error the process is to end soon: MPI cannot be
// used again, and after some seconds the job is ended the hard way.
//
// On the main thread, once per process.
absl::StatusOr<TrainingRunResult> RunWorker(WorkerRunOptions options);

// Whether mpirun, or srun, has started this process.
bool StartedByMpi();

}  // namespace mnemo
