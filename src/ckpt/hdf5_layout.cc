#include "src/ckpt/hdf5_layout.h"

#include <algorithm>
#include <memory>
#include <string_view>

#include "src/ckpt/hdf5_encoding.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr size_t kMaxPath = 1024;
constexpr int64_t kHeaderAlignment = 8;

int64_t AlignUp(int64_t value, int64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// A group, or a dataset if `spec` is set.
struct Node {
  const Hdf5DatasetSpec* spec = nullptr;
  int64_t data = 0;  // where the contents lie
  std::map<std::string, std::unique_ptr<Node>, std::less<>> children;
  int64_t address = 0;  // of the object header
};

// A link's name may hold nearly anything, but "." stands for the group itself.
absl::Status CheckPath(std::string_view path) {
  const char* problem = nullptr;
  if (path.size() > kMaxPath) problem = "is longer than 1024 bytes";
  if (path.find('\0') != path.npos) problem = "holds a zero byte";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == ".") problem = "has an empty part, or one that is \".\"";
    begin = end + 1;
  }
  if (problem == nullptr) return absl::OkStatus();
  return InvalidArgument("a dataset cannot be named \"{}\": it {}", path.substr(0, kMaxPath),
                         problem);
}

absl::StatusOr<Node*> AddDataset(Node& root, const Hdf5DatasetSpec& spec) {
  MNEMO_RETURN_IF_ERROR(CheckPath(spec.path));
  const std::string_view path = spec.path;
  Node* node = &root;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    auto& child = node->children[std::string(path.substr(begin, end - begin))];
    const bool last = end == path.size();
    if (child != nullptr && (last || child->spec != nullptr)) {
      return InvalidArgument("two datasets cannot be named \"{}\", nor one be a group of another",
                             path);
    }
    if (child == nullptr) child = std::make_unique<Node>();
    node = child.get();
    begin = end + 1;
  }
  node->spec = &spec;
  return node;
}

std::string Encode(const Node& node, const std::map<std::string, std::string>& attributes) {
  std::string messages;
  if (node.spec != nullptr) {
    messages = hdf5::DatasetMessages(node.spec->dtype, node.spec->shape, node.data);
    for (const auto& [name, values] : node.spec->attributes) {
      messages += hdf5::AttributeMessage(name, values);
    }
  } else {
    messages = hdf5::GroupMessages();
    for (const auto& [name, child] : node.children) {
      messages += hdf5::LinkMessage(name, child->address);
    }
  }
  for (const auto& [name, text] : attributes) messages += hdf5::AttributeMessage(name, text);
  std::string header = hdf5::ObjectHeader(messages);
  header.resize(AlignUp(static_cast<int64_t>(header.size()), kHeaderAlignment), '\0');
  return header;
}

// Appends the headers of `node` and all below it. Addresses do not change a header's size, so that
// one pass finds them and a second one writes them.
void EncodeAll(Node& node, const std::map<std::string, std::string>& attributes, std::string& out) {
  node.address = static_cast<int64_t>(out.size());
  out += Encode(node, attributes);
  for (auto& [name, child] : node.children) EncodeAll(*child, {}, out);
}

}  // namespace

absl::StatusOr<Hdf5Layout> LayOutHdf5(std::span<const Hdf5DatasetSpec> datasets,
                                      const std::map<std::string, std::string>& attributes) {
  Node root;
  std::vector<Node*> nodes;
  for (const Hdf5DatasetSpec& spec : datasets) {
    Node* node = nullptr;
    MNEMO_ASSIGN_OR_RETURN(node, AddDataset(root, spec));
    nodes.push_back(node);
  }
  std::string metadata(hdf5::kSuperblockBytes, '\0');
  EncodeAll(root, attributes, metadata);
  Hdf5Layout layout;
  layout.bytes = static_cast<int64_t>(metadata.size());
  for (Node* node : nodes) {
    node->data = AlignUp(layout.bytes, kHdf5Alignment);
    layout.offsets.push_back(node->data);
    layout.bytes = node->data + ElementCount(node->spec->shape) * SizeOf(node->spec->dtype);
  }
  std::string header = hdf5::Superblock(layout.bytes, root.address);
  EncodeAll(root, attributes, header);
  MNEMO_CHECK(header.size() == metadata.size());
  layout.header = std::move(header);
  return layout;
}

}  // namespace mnemo
