#include "tests/core/cuda/kernel_case.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mnemo::testing {
namespace {

struct Form {
  DType dtype;
  Device device;
  bool strided;
};

// The output of a call, in memory that was full of NaN.
Tensor Run(const KernelCase& c, const Form& form) {
  std::vector<Tensor> inputs;
  for (const Tensor& x : c.inputs) {
    const bool ids = x.dtype() == DType::kI32;
    inputs.push_back(Place(x, ids ? DType::kI32 : form.dtype, form.device, form.strided && !ids));
  }
  const Tensor start = c.in_place ? c.inputs[0].Clone() : Tensor::Full(c.out, NAN, DType::kF64);
  const Tensor out = Place(start, form.dtype, form.device, form.strided);
  if (form.device.type == DeviceType::kCuda) PoisonFreeMemory();
  c.run(Backend::For(form.device), inputs, out);
  return out;
}

}  // namespace

void CheckKernel(const KernelCase& c) {
  SCOPED_TRACE(c.name);
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    KernelCase rounded = c;
    for (Tensor& x : rounded.inputs) {
      if (x.dtype() != DType::kI32) x = x.To(dtype).To(DType::kF64);
    }
    const Tensor want = Run(rounded, {DType::kF64, {}, false});
    const DType computed = WideType(dtype);
    const Bound bound{.relative = dtype == DType::kBF16 ? 1.001 * UnitRoundoff(dtype) : 0,
                      .absolute = c.roundings * UnitRoundoff(computed),
                      .scale = c.scale};
    for (const bool strided : {false, true}) {
      if (strided && !c.strided) continue;
      SCOPED_TRACE(fmt::format("{} {}", Name(dtype), strided ? "strided" : "contiguous"));
      const Form form{dtype, kGpu, strided};
      const Tensor got = Run(rounded, form);
      ExpectClose(got, want, bound, "output");
      // NaN equals nothing, so that what is not written shows here too.
      EXPECT_TRUE(got.ToDoubles() == Run(rounded, form).ToDoubles()) << "two runs differ";
    }
  }
}

}  // namespace mnemo::testing
