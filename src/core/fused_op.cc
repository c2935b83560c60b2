#include "src/core/fused_op.h"

#include "src/core/planned_fused_policy.h"

namespace mnemo {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<const FusedOpBase*> ops;
};
Registry& TheRegistry() {
  static Registry registry;
  return registry;
}

std::atomic<bool> fused_enabled{true}, fused_strict{false}, fused_deterministic{true};

thread_local const FusedPolicy* planned = nullptr;
thread_local bool backward_follows = false;

}  // namespace

void SetFusedPolicy(FusedPolicy policy) {
  fused_enabled = policy.enabled;
  fused_strict = policy.strict;
  fused_deterministic = policy.deterministic;
}

FusedPolicy GetFusedPolicy() {
  if (planned != nullptr) return *planned;
  return {fused_enabled, fused_strict, fused_deterministic};
}

PlannedFusedPolicy::PlannedFusedPolicy(FusedPolicy policy) : policy_(policy), before_(planned) {
  planned = &policy_;
}

PlannedFusedPolicy::~PlannedFusedPolicy() { planned = before_; }

BackwardFollows::BackwardFollows() : before_(std::exchange(backward_follows, true)) {}

BackwardFollows::~BackwardFollows() { backward_follows = before_; }

bool BackwardFollows::Now() { return backward_follows; }

FusedOpBase::FusedOpBase(std::string name)
    : name_(std::move(name)), backward_name_(name_ + " backward") {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  registry.ops.push_back(this);
}

std::vector<const FusedOpBase*> FusedOpBase::All() {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  return registry.ops;
}

std::map<std::string, FusedCount> FusedCounts() {
  std::map<std::string, FusedCount> counts;
  for (const FusedOpBase* op : FusedOpBase::All()) {
    counts[op->name()] = {op->kernel_, op->composed_, op->fallback_};
  }
  return counts;
}

bool FusedOpBase::Decide(bool has_kernel, bool accepts) const {
  const FusedPolicy policy = GetFusedPolicy();
  const int64_t counted = planned == nullptr ? 1 : 0;
  if (!has_kernel || !policy.enabled) {
    composed_ += counted;
    return false;
  }
  if (accepts) {
    kernel_ += counted;
    return true;
  }
  fallback_ += counted;
  if (policy.strict) {
    throw TensorError(FailedPrecondition(
        "strict_fused: the kernel of '{}' does not cover this configuration; choose shapes and "
        "options that it covers (docs/kernels.md), or leave strict_fused off",
        name_));
  }
  return false;
}

}  // namespace mnemo
