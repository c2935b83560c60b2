#include "src/job/training_checkpoint.h"

#include <map>
#include <utility>
#include <vector>

#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/ckpt/manifest.h"
#include "src/core/backend.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/agreement.h"
#include "src/job/own_shard.h"
#include "src/model/door.h"
#include "src/model/parameter_shards.h"

namespace mnemo {
namespace {

absl::StatusOr<std::string> Unneeded() { return std::string(); }

std::vector<StatePiece> PiecesOf(Trainer& trainer) {
  const ParameterShard shard = OwnShard(trainer);
  std::map<int, ParameterRows> own;
  std::vector<StatePiece> pieces;
  const std::vector<ParameterInfo>& infos = trainer.parameters().infos();
  for (const ParameterRows& rows : shard.rows) {
    const ParameterInfo& info = infos[rows.parameter];
    // What all ranks of the tp axis hold, the first of them writes.
    if (info.split < 0 && trainer.ranks().position().tp > 0) continue;
    own[rows.parameter] = rows;
    pieces.push_back({"parameter/" + info.name, WholeShape(info), RowStart(info, rows.begin),
                      RowsOf(trainer.parameters(), rows)});
  }
  for (const StateTensor& state : trainer.optimizer().State()) {
    const auto found = own.find(state.rows.parameter);
    if (found == own.end()) continue;
    const int64_t begin = std::max(found->second.begin, state.rows.begin);
    const int64_t end = std::min(found->second.end, state.rows.end);
    if (begin >= end) continue;
    const ParameterInfo& info = infos[state.rows.parameter];
    const Tensor part = info.shape.empty() ? state.tensor
                                           : state.tensor.Slice(0, begin - state.rows.begin,
                                                                end - state.rows.begin);
    pieces.push_back({state.name, WholeShape(info), RowStart(info, begin), part});
  }
  return pieces;
}

int64_t SequencesPerStep(const v1::TrainConfig& train) {
  return int64_t{train.sequences()} * train.micro_batches() * train.accumulation();
}

v1::TrainingState StateOf(const Trainer& trainer, v1::TrainingState state) {
  const v1::TrainConfig& train = trainer.config().train();
  const Optimizer::Counters& counters = trainer.optimizer().counters();
  state.set_step(trainer.step());
  state.set_updates(counters.updates);
  state.set_skipped(counters.skipped);
  state.set_bad_in_a_row(counters.bad_in_a_row);
  state.set_seed(train.seed());
  state.set_next_sample(trainer.step() * SequencesPerStep(train));
  state.set_finished(trainer.step() >= train.steps());
  return state;
}

absl::StatusOr<std::string> Commit(FileSystem& fs, const std::string& temporary,
                                   const std::vector<std::string>& written,
                                   const v1::CheckpointManifest& manifest) {
  std::vector<v1::CheckpointFragment> fragments(written.size());
  for (size_t r = 0; r < written.size(); ++r) {
    MNEMO_CHECK(fragments[r].ParseFromString(written[r]));
  }
  return CommitCheckpoint(fs, temporary, fragments, manifest);
}

void Prune(FileSystem& fs, const std::string& checkpoints, const RetentionRule& keep) {
  const auto removed = PruneCheckpoints(fs, checkpoints, keep);
  if (!removed.ok()) {
    LogWarning("cannot remove old checkpoints: {}", std::string(removed.status().message()));
  }
}

absl::Status CheckSame(const CheckpointReader& reader, const Trainer& trainer) {
  const v1::TrainConfig& train = trainer.config().train();
  const v1::TrainingState& state = reader.manifest().training();
  if (state.seed() != train.seed()) {
    return FailedPrecondition("{}: was trained with train.seed = {}, not {}", reader.directory(),
                              state.seed(), train.seed());
  }
  if (state.next_sample() != state.step() * SequencesPerStep(train)) {
    return FailedPrecondition(
        "{}: its {} steps read {} sequences; here train.sequences x micro_batches x accumulation "
        "is {}: another number would read the data in another order",
        reader.directory(), state.step(), state.next_sample(), SequencesPerStep(train));
  }
  return absl::OkStatus();
}

// Reads rows of what this rank holds of a tensor into `into`, which has their shape.
absl::Status ReadRows(const CheckpointReader& reader, const std::string& name,
                      const ParameterInfo& info, int64_t first_row, const Tensor& into) {
  const v1::CheckpointTensor* found = reader.Find(name);
  if (found == nullptr || Shape(found->shape().begin(), found->shape().end()) != WholeShape(info)) {
    return FailedPrecondition("{}: {} {}: it is of another model", reader.directory(),
                              found == nullptr ? "has no tensor" : "has another shape of", name);
  }
  if (DTypeOf(*found) != into.dtype()) {
    return FailedPrecondition("{}: {} is {}, but the run computes in {}; set execution.precision",
                              reader.directory(), name, Name(DTypeOf(*found)), Name(into.dtype()));
  }
  const Box box = {RowStart(info, first_row), into.shape()};
  if (into.device() == Device() && into.contiguous()) return reader.ReadBoxInto(name, box, into);
  MNEMO_ASSIGN_OR_RETURN(const Tensor value, reader.ReadBox(name, box));
  Backend::For(into.device()).Copy(value.To(into.device()), into);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadOwn(FileSystem& fs, const std::string& checkpoint,
                                    Trainer& trainer) {
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, checkpoint));
  MNEMO_RETURN_IF_ERROR(CheckSame(reader, trainer));
  const std::vector<ParameterInfo>& infos = trainer.parameters().infos();
  for (const ParameterRows& rows : OwnShard(trainer).rows) {
    const ParameterInfo& info = infos[rows.parameter];
    MNEMO_RETURN_IF_ERROR(ReadRows(reader, "parameter/" + info.name, info, rows.begin,
                                   RowsOf(trainer.parameters(), rows)));
  }
  for (const StateTensor& state : trainer.optimizer().State()) {
    MNEMO_RETURN_IF_ERROR(
        ReadRows(reader, state.name, infos[state.rows.parameter], state.rows.begin, state.tensor));
  }
  const v1::TrainingState& training = reader.manifest().training();
  trainer.Resume(training.step(), {.updates = training.updates(),
                                   .skipped = training.skipped(),
                                   .bad_in_a_row = training.bad_in_a_row()});
  return std::string();
}

}  // namespace

SavedTraining CollectTraining(const v1::CheckpointManifest& about, Trainer& trainer) {
  SavedTraining saved{PiecesOf(trainer), about};
  *saved.manifest.mutable_training() = StateOf(trainer, about.training());
  return saved;
}

absl::StatusOr<std::string> WriteTraining(FileSystem& fs, const std::string& checkpoints,
                                          const absl::StatusOr<SavedTraining>& saved, Ranks& ranks,
                                          Communicator& group, const WriteOptions& options) {
  const auto begin = [&]() -> absl::StatusOr<std::string> {
    MNEMO_RETURN_IF_ERROR(saved.status());
    if (!ranks.first()) return Unneeded();
    return BeginCheckpoint(fs, checkpoints, saved->manifest.training().step());
  };
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> begun, ExchangeWork(ranks, group, begin));
  const std::string& temporary = begun[0];
  const auto write = [&]() -> absl::StatusOr<std::string> {
    MNEMO_ASSIGN_OR_RETURN(
        const v1::CheckpointFragment fragment,
        WriteCheckpointFile(fs, temporary, ranks.rank(), saved->pieces, options.piece_bytes));
    return fragment.SerializeAsString();
  };
  const auto abandon = [&]() -> absl::StatusOr<std::string> {
    if (ranks.first()) AbandonCheckpoint(fs, temporary);
    return Unneeded();
  };
  const auto written = ExchangeWork(ranks, group, write);
  if (!written.ok()) {
    (void)ExchangeWork(ranks, group, abandon);  // the first error is the one to report
    return written.status();
  }
  const auto commit = [&]() -> absl::StatusOr<std::string> {
    if (!ranks.first()) return Unneeded();
    MNEMO_ASSIGN_OR_RETURN(const std::string directory,
                           Commit(fs, temporary, *written, saved->manifest));
    if (options.keep) Prune(fs, checkpoints, *options.keep);
    return directory;
  };
  const auto committed = ExchangeWork(ranks, group, commit);
  if (!committed.ok()) {
    (void)ExchangeWork(ranks, group, abandon);
    return committed.status();
  }
  return (*committed)[0];
}

absl::StatusOr<std::string> SaveTraining(FileSystem& fs, const std::string& checkpoints,
                                         const v1::CheckpointManifest& about, Trainer& trainer) {
  Ranks& ranks = trainer.ranks();
  const auto collect = [&]() -> absl::StatusOr<SavedTraining> {
    return CollectTraining(about, trainer);
  };
  return WriteTraining(fs, checkpoints, AtTheDoor(collect), ranks, ranks.world());
}

absl::Status RestoreTraining(FileSystem& fs, const std::string& checkpoint, Trainer& trainer) {
  Ranks& ranks = trainer.ranks();
  const auto read = [&] { return ReadOwn(fs, checkpoint, trainer); };
  MNEMO_RETURN_IF_ERROR(ExchangeWork(ranks, ranks.world(), read).status());
  return GatherShards(trainer);
}

}  // namespace mnemo
