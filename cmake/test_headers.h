// Precompiled for all tests: headers of other projects that most of their files read.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cmake/library_headers.h"
