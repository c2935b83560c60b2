// The only container of the references: a row-major matrix of doubles.
//
// The references under tests/reference are the definitions that the library is compared with. They
// are plain on purpose (float64, one sequence, nested loops, token by token) and share no code with
// src/. They do not check their arguments.
#pragma once

#include <cstddef>
#include <vector>

namespace mnemo::reference {

using Vector = std::vector<double>;

struct Matrix {
  Matrix() = default;
  Matrix(int rows_in, int cols_in)
      : rows(rows_in), cols(cols_in), data(static_cast<std::size_t>(rows_in) * cols_in, 0.0) {}

  double& operator()(int r, int c) { return data[static_cast<std::size_t>(r) * cols + c]; }
  double operator()(int r, int c) const { return data[static_cast<std::size_t>(r) * cols + c]; }

  int rows = 0;
  int cols = 0;
  Vector data;  // [rows, cols]
};

// Row r as a vector.
Vector Row(const Matrix& x, int r);
void SetRow(Matrix& x, int r, const Vector& row);

// Rows begin..end-1, all columns or columns first..first+width-1.
Matrix Rows(const Matrix& x, int begin, int end);
Matrix Slice(const Matrix& x, int begin, int end, int first, int width);

// Copies `part` into x with its corner at (row, col).
void Paste(Matrix& x, int row, int col, const Matrix& part);

}  // namespace mnemo::reference
