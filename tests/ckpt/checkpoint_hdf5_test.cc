// The files as the HDF5 library sees them.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <set>

#include "src/ckpt/hdf5_encoding.h"
#include "src/ckpt/hdf5_layout.h"
#include "src/ckpt/manifest.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

FileSystem& Fs() { return FileSystem::Posix(); }

// What the library says about one file.
class LibraryFile {
 public:
  explicit LibraryFile(const std::string& path)
      : file_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {
    EXPECT_GE(file_, 0) << path;
  }
  ~LibraryFile() { H5Fclose(file_); }

  std::set<std::string> Datasets() const {
    std::set<std::string> names;
    H5Ovisit1(
        file_, H5_INDEX_NAME, H5_ITER_NATIVE,
        [](hid_t, const char* name, const H5O_info_t* info, void* out) -> herr_t {
          if (info->type == H5O_TYPE_DATASET)
            static_cast<std::set<std::string>*>(out)->insert(name);
          return 0;
        },
        &names);
    return names;
  }

  // Contents of a dataset, as they are stored.
  std::string Read(const std::string& name, int64_t* offset) const {
    const hid_t dataset = H5Dopen2(file_, name.c_str(), H5P_DEFAULT);
    EXPECT_GE(dataset, 0) << name;
    const hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    std::string bytes(H5Sget_simple_extent_npoints(space) * H5Tget_size(type), '\0');
    EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), 0) << name;
    *offset = static_cast<int64_t>(H5Dget_offset(dataset));
    H5Tclose(type), H5Sclose(space), H5Dclose(dataset);
    return bytes;
  }

  std::vector<double> ReadAsDoubles(const std::string& name) const {
    const hid_t dataset = H5Dopen2(file_, name.c_str(), H5P_DEFAULT);
    const hid_t space = H5Dget_space(dataset);
    std::vector<double> values(H5Sget_simple_extent_npoints(space));
    EXPECT_GE(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Sclose(space), H5Dclose(dataset);
    return values;
  }

  std::vector<int64_t> Attribute(const std::string& name, const char* attribute) const {
    const hid_t id = H5Aopen_by_name(file_, name.c_str(), attribute, H5P_DEFAULT, H5P_DEFAULT);
    EXPECT_GE(id, 0) << name << " " << attribute;
    const hid_t space = H5Aget_space(id);
    std::vector<int64_t> values(H5Sget_simple_extent_npoints(space));
    EXPECT_GE(H5Aread(id, H5T_NATIVE_INT64, values.data()), 0);
    H5Sclose(space), H5Aclose(id);
    return values;
  }

  std::string Text(const char* attribute) const {
    const hid_t id = H5Aopen(file_, attribute, H5P_DEFAULT);
    EXPECT_GE(id, 0) << attribute;
    const hid_t type = H5Aget_type(id);
    std::string text(H5Tget_size(type), '\0');
    EXPECT_GE(H5Aread(id, type, text.data()), 0);
    H5Tclose(type), H5Aclose(id);
    return text.c_str();
  }

  bool IsStoredAs(const std::string& name, hid_t wanted) const {
    const hid_t dataset = H5Dopen2(file_, name.c_str(), H5P_DEFAULT), type = H5Dget_type(dataset);
    const bool same = H5Tequal(type, wanted) > 0;
    H5Tclose(type), H5Dclose(dataset);
    return same;
  }

 private:
  hid_t file_;
};

TEST(Hdf5EncodingTest, ChecksumIsLookup3) {
  EXPECT_EQ(hdf5::Checksum(""), 0xdeadbeefu);
  EXPECT_EQ(hdf5::Checksum("Four score and seven years ago"), 0x17770551u);  // the author's own
}

TEST(CheckpointHdf5Test, TheLibraryReadsEveryPiece) {
  const ScratchDirectory scratch;
  const TestState state = MakeState(1);
  for (int ranks : {1, 4}) {
    const std::string directory = SaveState(Fs(), scratch / "run", ranks, state, ranks).value();
    const auto reader = CheckpointReader::Open(Fs(), directory);
    const v1::CheckpointManifest& manifest = reader->manifest();
    for (int i = 0; i < manifest.files_size(); ++i) {
      const LibraryFile file(directory + "/" + manifest.files(i).path());
      EXPECT_EQ(file.Text("format"), "mnemosyne-checkpoint");
      EXPECT_EQ(file.Text("format_version"), "1");
      std::set<std::string> expected;
      for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
        for (const v1::CheckpointPiece& piece : tensor.pieces()) {
          if (piece.file() != i) continue;
          const Box box = BoxOf(piece);
          std::string name = tensor.name();
          const char* sign = "@";
          for (int64_t begin : box.begin) {
            if (box.shape == ShapeOf(tensor)) break;
            name += fmt::format("{}{}", sign, begin);
            sign = ",";
          }
          expected.insert(name);
          int64_t offset = 0;
          EXPECT_EQ(file.Read(name, &offset), BytesOf(reader->ReadBox(tensor.name(), box).value()));
          EXPECT_EQ(offset, piece.byte_offset());
          EXPECT_EQ(offset % kHdf5Alignment, 0);
          if (box.shape.empty()) continue;
          EXPECT_EQ(file.Attribute(name, "begin"),
                    std::vector<int64_t>(box.begin.begin(), box.begin.end()));
          EXPECT_EQ(file.Attribute(name, "tensor_shape"),
                    std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end()));
        }
      }
      EXPECT_EQ(file.Datasets(), expected);
    }
  }
}

TEST(CheckpointHdf5Test, TypesAreTheLibrarysOwn) {
  const ScratchDirectory scratch;
  const TestState state = MakeState(1);
  const LibraryFile file(SaveState(Fs(), scratch / "run", 1, state, 1).value() + "/rank-00000.h5");
  EXPECT_TRUE(file.IsStoredAs("parameter/embedding.weight", H5T_IEEE_F32LE));
  EXPECT_TRUE(file.IsStoredAs("first_moment/embedding.weight", H5T_IEEE_F64LE));
  EXPECT_TRUE(file.IsStoredAs("carry/0/tokens", H5T_STD_I32LE));
  // bfloat16 has no name in the library, but it knows how to convert it.
  EXPECT_EQ(file.ReadAsDoubles("parameter/layers.0.memory.weight"), state[1].value.ToDoubles());
}

// More links than one group of the library's own making would hold in its header.
TEST(CheckpointHdf5Test, ManyDatasetsInOneGroup) {
  const ScratchDirectory scratch;
  std::vector<StatePiece> pieces;
  for (int i = 0; i < 3000; ++i) {
    pieces.push_back(WholePiece(fmt::format("parameter/layers.{}.a.long.name.of.a.weight", i),
                                Tensor::Full({3}, i, DType::kF32)));
  }
  const std::string directory = SaveCheckpoint(Fs(), scratch / "run", pieces, About(1)).value();
  const LibraryFile file(directory + "/rank-00000.h5");
  EXPECT_EQ(file.Datasets().size(), pieces.size());
  for (int i : {0, 1234, 2999}) {
    EXPECT_EQ(file.ReadAsDoubles(pieces[i].name), std::vector<double>(3, i));
  }
}

TEST(CheckpointHdf5Test, ADamagedHeaderDoesNotPass) {
  const ScratchDirectory scratch;
  const std::string path =
      SaveState(Fs(), scratch / "run", 1, MakeState(1), 1).value() + "/rank-00000.h5";
  ChangeFile(path, [](std::string& bytes) { bytes[60] ^= 1; });  // in the root's object header
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);  // the library looks at the header when it is needed
  EXPECT_LT(H5Dopen2(file, "parameter/scale", H5P_DEFAULT), 0);
  H5Fclose(file);
}

}  // namespace
}  // namespace mnemo
