// Pieces of SVG pictures.
#pragma once

#include <string>

namespace mnemo {

// As text or an attribute of XML may hold it; control characters, which XML does not take, go.
std::string SvgEscaped(const std::string& text);

// The opening tag of a picture on white, `width` by `height` points, in a font for labels.
std::string SvgBegin(double width, double height);

// One line of text; `anchor` is start, middle or end, `text` is escaped here.
std::string SvgText(double x, double y, const char* anchor, const std::string& text);

std::string SvgLine(double x1, double y1, double x2, double y2, const char* color);

}  // namespace mnemo
