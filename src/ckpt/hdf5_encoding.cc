#include "src/ckpt/hdf5_encoding.h"

#include <bit>
#include <concepts>

#include "src/core/status.h"

namespace mnemo::hdf5 {
namespace {

// Message types.
constexpr uint8_t kDataspace = 0x01, kLinkInfo = 0x02, kDatatype = 0x03, kFillValue = 0x05,
                  kLink = 0x06, kLayout = 0x08, kGroupInfo = 0x0a, kAttribute = 0x0c,
                  kAttributeInfo = 0x15;
constexpr uint64_t kUndefined = ~uint64_t{0};

template <std::unsigned_integral T>
void Put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}
void PutByte(std::string& out, uint8_t value) { Put(out, value); }

std::string Message(uint8_t type, std::string_view body) {
  MNEMO_CHECK(body.size() <= 0xffff, "a message of {} bytes", body.size());
  std::string message;
  PutByte(message, type);
  Put(message, static_cast<uint16_t>(body.size()));
  PutByte(message, 0);  // flags
  return message.append(body);
}

std::string Dataspace(std::span<const int64_t> shape) {
  std::string body;
  PutByte(body, 2);  // version
  PutByte(body, static_cast<uint8_t>(shape.size()));
  PutByte(body, 0);                      // the dims cannot grow
  PutByte(body, shape.empty() ? 0 : 1);  // scalar, or simple
  for (int64_t dim : shape) Put(body, static_cast<uint64_t>(dim));
  return body;
}

// Classes 0 to 3 are integer, float, time, string; the class' own bits follow.
std::string DatatypeStart(uint8_t type_class, uint32_t bits, int64_t bytes) {
  std::string body;
  PutByte(body, static_cast<uint8_t>(0x10 | type_class));  // version 1
  for (int i = 0; i < 3; ++i) PutByte(body, static_cast<uint8_t>(bits >> (8 * i)));
  Put(body, static_cast<uint32_t>(bytes));
  return body;
}

std::string SignedInteger(int64_t bytes) {
  std::string body = DatatypeStart(0, 0x08, bytes);
  Put(body, uint16_t{0});  // bit offset
  Put(body, static_cast<uint16_t>(8 * bytes));
  return body;
}

// Sign, exponent and mantissa from the top bit down; the mantissa's first bit is implied.
std::string Float(int64_t bytes, int exponent_bits) {
  const int bits = static_cast<int>(8 * bytes), mantissa_bits = bits - 1 - exponent_bits;
  std::string body = DatatypeStart(1, static_cast<uint32_t>(bits - 1) << 8 | 0x20, bytes);
  Put(body, uint16_t{0});  // bit offset
  Put(body, static_cast<uint16_t>(bits));
  PutByte(body, static_cast<uint8_t>(mantissa_bits));  // where the exponent lies
  PutByte(body, static_cast<uint8_t>(exponent_bits));
  PutByte(body, 0);  // where the mantissa lies
  PutByte(body, static_cast<uint8_t>(mantissa_bits));
  Put(body, (uint32_t{1} << (exponent_bits - 1)) - 1);  // bias
  return body;
}

std::string Datatype(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Float(4, 8);
    case DType::kF64:
      return Float(8, 11);
    case DType::kBF16:
      return Float(2, 8);
    case DType::kI32:
      return SignedInteger(4);
  }
  MNEMO_CHECK(false, "unknown dtype");
  return {};
}

std::string Attribute(std::string_view name, std::string_view type, std::string_view space,
                      std::string_view value) {
  std::string body;
  PutByte(body, 3);  // version
  PutByte(body, 0);  // flags: type and space are in the message itself
  Put(body, static_cast<uint16_t>(name.size() + 1));
  Put(body, static_cast<uint16_t>(type.size()));
  Put(body, static_cast<uint16_t>(space.size()));
  PutByte(body, 0);  // the name is ASCII
  body.append(name);
  PutByte(body, 0);
  return Message(kAttribute, body.append(type).append(space).append(value));
}

// Links and attributes lie in the header itself: no heap, no index.
std::string NoIndex() {
  std::string body(2, '\0');  // version, flags
  Put(body, kUndefined);
  Put(body, kUndefined);
  return body;
}

uint32_t Word(std::string_view bytes, size_t at) {
  uint32_t word = 0;
  for (size_t i = 0; i < 4 && at + i < bytes.size(); ++i) {
    word |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  }
  return word;
}

}  // namespace

uint32_t Checksum(std::string_view bytes) {
  uint32_t a = 0xdeadbeef + static_cast<uint32_t>(bytes.size()), b = a, c = a;
  if (bytes.empty()) return c;
  const auto step = [](uint32_t& x, uint32_t y, uint32_t z, int shift, uint32_t& sum) {
    x = (x - z) ^ std::rotl(z, shift);
    sum = z + y;
  };
  size_t at = 0;
  for (; bytes.size() - at > 12; at += 12) {
    a += Word(bytes, at), b += Word(bytes, at + 4), c += Word(bytes, at + 8);
    step(a, b, c, 4, c), step(b, c, a, 6, a), step(c, a, b, 8, b);
    step(a, b, c, 16, c), step(b, c, a, 19, a), step(c, a, b, 4, b);
  }
  a += Word(bytes, at), b += Word(bytes, at + 4), c += Word(bytes, at + 8);
  const auto end = [](uint32_t& x, uint32_t y, int shift) { x = (x ^ y) - std::rotl(y, shift); };
  end(c, b, 14), end(a, c, 11), end(b, a, 25), end(c, b, 16);
  end(a, c, 4), end(b, a, 14), end(c, b, 24);
  return c;
}

std::string Superblock(int64_t end_of_file, int64_t root_address) {
  std::string block = "\x89HDF\r\n\x1a\n";
  PutByte(block, 2);        // version
  PutByte(block, 8);        // bytes of an address
  PutByte(block, 8);        // bytes of a length
  PutByte(block, 0);        // flags
  Put(block, uint64_t{0});  // base address
  Put(block, kUndefined);   // no extension
  Put(block, static_cast<uint64_t>(end_of_file));
  Put(block, static_cast<uint64_t>(root_address));
  Put(block, Checksum(block));
  MNEMO_CHECK(block.size() == kSuperblockBytes);
  return block;
}

std::string GroupMessages() {
  return Message(kLinkInfo, NoIndex()) + Message(kGroupInfo, std::string(2, '\0'));
}

std::string LinkMessage(std::string_view name, int64_t address) {
  std::string body;
  PutByte(body, 1);     // version
  PutByte(body, 0x11);  // the name's length has two bytes, its character set is given
  PutByte(body, 1);     // UTF-8
  Put(body, static_cast<uint16_t>(name.size()));
  body.append(name);
  Put(body, static_cast<uint64_t>(address));
  return Message(kLink, body);
}

std::string DatasetMessages(DType dtype, const Shape& shape, int64_t data_address) {
  std::string fill;
  PutByte(fill, 3);           // version
  PutByte(fill, 1 | 1 << 2);  // allocated early, never filled
  std::string layout;
  PutByte(layout, 3);  // version
  PutByte(layout, 1);  // contiguous
  Put(layout, static_cast<uint64_t>(data_address));
  Put(layout, static_cast<uint64_t>(ElementCount(shape) * SizeOf(dtype)));
  return Message(kDataspace, Dataspace(shape)) + Message(kDatatype, Datatype(dtype)) +
         Message(kFillValue, fill) + Message(kLayout, layout) + Message(kAttributeInfo, NoIndex());
}

std::string AttributeMessage(std::string_view name, std::span<const int64_t> values) {
  std::string bytes;
  for (int64_t value : values) Put(bytes, static_cast<uint64_t>(value));
  const int64_t count[] = {static_cast<int64_t>(values.size())};
  return Attribute(name, SignedInteger(8), Dataspace(count), bytes);
}

std::string AttributeMessage(std::string_view name, std::string_view text) {
  const std::string bytes = std::string(text) + '\0';
  return Attribute(name, DatatypeStart(3, 0, static_cast<int64_t>(bytes.size())), Dataspace({}),
                   bytes);
}

std::string ObjectHeader(std::string_view messages) {
  std::string header = "OHDR";
  PutByte(header, 2);     // version
  PutByte(header, 0x02);  // the messages' size has four bytes
  Put(header, static_cast<uint32_t>(messages.size()));
  header.append(messages);
  Put(header, Checksum(header));
  return header;
}

}  // namespace mnemo::hdf5
