// See cuda_runtime.h beside this: graphs of cuDNN are tests/simt/sdpa.cc.
#pragma once

using cudnnHandle_t = void*;
