// A job of a few ranks with a clock of the test's own.
#pragma once

#include <string>

#include "src/job/service/job_ledger.h"

namespace mnemo {

inline JobTerms TermsOf(int workers) {
  JobTerms terms;
  terms.run = "run";
  terms.config.mutable_train()->set_steps(100);
  terms.plan.mutable_mesh()->set_sp(workers);
  terms.workers = workers;
  terms.build = "mnemo of the test";
  terms.silent_seconds = 10;
  terms.join_seconds = 60;
  return terms;
}

inline v1::JoinRequest JoinOf(int rank, const JobTerms& terms) {
  v1::JoinRequest request;
  request.set_rank(rank);
  request.set_world_size(terms.workers);
  request.set_host("host" + std::to_string(rank));
  request.set_process(1000 + rank);
  request.set_build(terms.build);
  return request;
}

inline v1::WorkerReport ReportOf(int rank, int64_t step, const std::string& operation) {
  v1::WorkerReport report;
  report.set_rank(rank);
  report.set_step(step);
  report.set_operation(operation);
  return report;
}

inline v1::WorkerReport MetricsOf(int rank, int64_t step) {
  v1::WorkerReport report = ReportOf(rank, step, "step");
  report.mutable_metrics()->set_step(step);
  report.mutable_metrics()->set_loss(1.0 / static_cast<double>(step));
  return report;
}

inline v1::WorkerReport CheckpointOf(int rank, int64_t step) {
  v1::WorkerReport report = ReportOf(rank, step, "step");
  report.mutable_checkpoint()->set_step(step);
  report.mutable_checkpoint()->set_path("run/checkpoints/" + std::to_string(step));
  return report;
}

inline v1::WorkerReport EndOf(int rank, int64_t step, const std::string& error) {
  v1::WorkerReport report = ReportOf(rank, step, "end");
  report.mutable_end()->set_step(step);
  report.mutable_end()->set_error(error);
  return report;
}

}  // namespace mnemo
