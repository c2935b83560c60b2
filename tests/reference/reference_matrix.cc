#include "tests/reference/reference_matrix.h"

namespace mnemo::reference {

Vector Row(const Matrix& x, int r) { return Slice(x, r, r + 1, 0, x.cols).data; }

void SetRow(Matrix& x, int r, const Vector& row) {
  for (int c = 0; c < x.cols; ++c) x(r, c) = row[c];
}

Matrix Rows(const Matrix& x, int begin, int end) { return Slice(x, begin, end, 0, x.cols); }

Matrix Slice(const Matrix& x, int begin, int end, int first, int width) {
  Matrix out(end - begin, width);
  for (int r = 0; r < out.rows; ++r) {
    for (int c = 0; c < width; ++c) out(r, c) = x(begin + r, first + c);
  }
  return out;
}

void Paste(Matrix& x, int row, int col, const Matrix& part) {
  for (int r = 0; r < part.rows; ++r) {
    for (int c = 0; c < part.cols; ++c) x(row + r, col + c) = part(r, c);
  }
}

}  // namespace mnemo::reference
