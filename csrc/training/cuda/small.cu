// Which networks train by small.cuh, on how many blocks, and their launches.
#include <algorithm>
#include <limits>
#include <vector>

#include "network/cuda/units.cuh"
#include "training/cuda/small.cuh"
#include "training/cuda/ways.h"
#include "training/update.h"

namespace hrta {
namespace cuda {
namespace small {

namespace {

// Beyond, a step costs some 20 us and the passes' own kernels are no slower: pairs of sample and neuron, for up to four
// features. With ReLU and two features the sums over arcs win far earlier.
constexpr int64_t kMostPairs = 10'000'000, kMostPairsBesideArcs = 400'000;
// From here on a grid is worth its two barriers.
constexpr int64_t kGridPairs = 400'000;
constexpr int64_t kMostSmallFeatures = 16;
constexpr int kMostPieces = 128;
constexpr int kLeastOfShare = 32, kLeastOfPiece = 12;  // neurons
constexpr int kMostPartialSums = 1 << 15;              // floats, of backward's parts

int to_power_of_two(int64_t most) {
  int power = 1;
  while (2 * power <= most) power *= 2;
  return power;
}

int ceil_by(int n, int by) {
  return (n + by - 1) / by;
}

Cut cut_of(const TwoLayerTraining& t) {
  Cut cut{};
  cut.n = int(t.n), cut.features = int(t.features), cut.width = int(t.width);
  cut.shares = to_power_of_two(std::min<int64_t>(t.width / kLeastOfShare, kMostShares));
  cut.pieces = t.n * t.width < kGridPairs
                   ? cut.shares
                   : std::max(cut.shares, to_power_of_two(std::min<int64_t>(t.width / kLeastOfPiece, kMostPieces)));
  cut.neurons = ceil_by(cut.width, cut.pieces);
  // As many as give every warp of a block that has one piece something to do.
  cut.forward_slices = std::clamp(kBlockWarps / ceil_by(cut.n, 32), 1, std::max(cut.neurons / 4, 1));
  cut.backward_slices = std::clamp(kBlockWarps / ceil_by(cut.neurons, 32), 1, std::max(cut.n / 8, 1));
  cut.slice_neurons = ceil_by(cut.neurons, cut.forward_slices);
  cut.slice_samples = ceil_by(cut.n, cut.backward_slices);
  return cut;
}

int moments_of(const TwoLayerTraining& t) {
  return t.rule == UpdateRule::kAdam ? 2 : t.weight_first != nullptr ? 1 : 0;
}

Spread spread_of(const TwoLayerTraining& t, const Cut& cut, int blocks, bool resident, int most_partial_sums) {
  Spread spread{};
  spread.resident = resident;
  spread.pieces = ceil_by(cut.pieces, blocks);
  spread.blocks = ceil_by(cut.pieces, spread.pieces);
  spread.to_send = resident ? spread.pieces : cut.shares / spread.blocks;
  const int held = spread.pieces * cut.neurons, padded = padded_features(cut.features), elements = cut.features + 1;
  if (has_variants(t.base, cut.features)) spread.variant = held > 256 ? 2 : cut.n > 512 ? 1 : 0;
  const Variant variant = kVariants[spread.variant];
  spread.sample_groups = ceil_by(cut.n, 32 * variant.samples);
  spread.neuron_groups = ceil_by(held, 32 * variant.neurons);
  spread.n4 = ceil_by(cut.n, 4) * 4;
  // Neighbouring elements of neighbouring neurons, which the lanes of update read, in different banks.
  spread.column = held + (64 + ceil_by(32, elements) - held % 32) % 32;
  const int partial = (padded + 1) * spread.column;
  spread.forward_parts = spread.pieces * spread.sample_groups >= kBlockWarps ? 1 : cut.forward_slices;
  spread.backward_parts = spread.neuron_groups >= kBlockWarps || cut.backward_slices * partial > most_partial_sums
                              ? 1
                              : cut.backward_slices;
  spread.forward_in_turn = cut.forward_slices / spread.forward_parts;
  spread.backward_in_turn = cut.backward_slices / spread.backward_parts;
  int end = 0;
  const auto take = [&](int floats) {
    const int begin = end;
    end += ceil_by(floats, 4) * 4;
    return begin;
  };
  const int row = padded <= 4 ? padded : padded + 4;
  take(spread.n4 * row);  // x
  spread.weight = take(held * row);
  spread.output_weight = take(2 * held);
  spread.moments = take(moments_of(t) * held * elements);
  spread.grad = take(2 * spread.n4);
  spread.terms = take(2 * spread.n4);
  spread.y = take(spread.n4);
  spread.sample_weight = take(spread.n4);
  spread.sums = take(std::max(spread.pieces * spread.forward_parts * spread.n4, spread.backward_parts * partial));
  spread.inbox = take(resident ? 0 : 2 * cut.shares * spread.n4);
  spread.floats = end;
  spread.by_samples = Digits::of(kBlockWarps, spread.sample_groups, spread.forward_parts);
  spread.by_neurons = Digits::of(kBlockWarps, spread.neuron_groups, spread.backward_parts);
  spread.by_elements = Digits::of(kBlockThreads, elements, kUnbounded);
  spread.by_sums = Digits::of(kBlockThreads, spread.n4 / 4, spread.to_send);
  return spread;
}

Kernel* kernel_of(const TwoLayerTraining& t, const Spread& spread) {
  return with_base(t.base, [&](auto base) { return kernel_for<decltype(base)>(int(t.features), spread.variant); });
}

Shape shape_of(const Spread& spread, int64_t networks) {
  Shape shape{dim3(unsigned(networks * spread.blocks)), kBlockThreads};
  shape.shared = size_t(spread.floats) * sizeof(float);
  shape.cluster = spread.resident ? 1 : spread.blocks;
  shape.resident = spread.resident;
  return shape;
}

// A model of a step of all networks in microseconds, fit for choosing between spreads alone: bits do not hang on it.
double cost(const TwoLayerTraining& t, const Spread& spread, int64_t networks, const Device& device) {
  const double work = 1e-6 * double(t.n) * double(t.width) * (t.base == kRelu ? 1.0 : 1.4) *
                      (0.5 + double(padded_features(int(t.features))) / 8.0);
  const double of_block = 168.0 * work / spread.blocks;
  if (spread.resident) return double(networks) * (5.6 + of_block);
  // Clusters leave multiprocessors idle that do not make up another one.
  const double usable = device.multiprocessors * (spread.blocks > 8 ? 0.75 : spread.blocks > 2 ? 0.9 : 1.0);
  const int64_t at_once = std::max<int64_t>(int64_t(usable) / spread.blocks, 1);
  return double(ceil_div(networks, at_once)) * (3.0 + of_block);
}

}  // namespace

Spread chosen(const TwoLayerTraining& t, int64_t networks, const Device& device) {
  const Cut cut = cut_of(t);
  Spread best{};
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](int blocks, bool resident) {
    for (const int most_partial_sums : {kMostPartialSums, 0}) {  // with fewer warps at work where memory is short
      const Spread spread = spread_of(t, cut, blocks, resident, most_partial_sums);
      const double of_this = cost(t, spread, networks, device);
      if (of_this >= least || !fits(kernel_of(t, spread), shape_of(spread, 1), device)) continue;
      best = spread, least = of_this;
    }
  };
  for (int blocks = cut.shares; blocks >= 1; blocks /= 2) {
    if (blocks <= std::max(device.cluster, 1)) consider(blocks, false);
  }
  const int most = std::min(cut.pieces, device.multiprocessors);
  if (most > 1) consider(most, true);
  return best;
}

namespace {

// Networks that are alike, and where the numbers of each lie in scratch memory.
struct Group {
  std::vector<const TwoLayerMember*> members;
  Cut cut;
  Spread spread;
};

struct Plan {
  std::vector<Group> groups;
  // In bytes: networks and numbers, which the host fills, by groups; what resident blocks exchange.
  int64_t numbers, partial, f, barrier, bytes;

  Plan(const TwoLayerMember* members, int64_t count, int64_t steps, const Device& device) {
    for (int64_t i = 0; i < count; ++i) {
      const TwoLayerTraining& training = *members[i].training;
      const auto its = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
        return alike(*group.members.front()->training, training);
      });
      if (its != groups.end()) {
        its->members.push_back(&members[i]);
      } else {
        groups.push_back({{&members[i]}, cut_of(training), {}});
      }
    }
    int64_t floats = 0, samples = 0;
    for (Group& group : groups) {
      group.spread = chosen(*group.members.front()->training, int64_t(group.members.size()), device);
      if (!group.spread.resident) continue;
      floats = std::max(floats, int64_t(group.cut.pieces) * group.spread.n4);
      samples = std::max(samples, int64_t(group.cut.n));
    }
    const auto after = [](int64_t begin, int64_t length) { return (begin + length + 15) / 16 * 16; };
    numbers = after(0, count * int64_t(sizeof(Network)));
    partial = after(numbers, count * (steps + 1) * int64_t(sizeof(float4)));
    f = after(partial, 4 * floats);
    barrier = after(f, 8 * samples);
    bytes = after(barrier, sizeof(uint32_t));
  }
};

Network network_of(const TwoLayerMember& member, const float4* numbers) {
  const TwoLayerTraining& t = *member.training;
  const auto floats = [](void* array) { return static_cast<float*>(array); };
  const auto inputs = [](const void* array) { return static_cast<const float*>(array); };
  return {inputs(t.x),
          inputs(t.y),
          inputs(t.sample_weight),
          floats(t.weight),
          floats(t.output_weight),
          floats(t.weight_first),
          floats(t.weight_second),
          floats(t.output_first),
          floats(t.output_second),
          member.outputs.on_return ? t.f : nullptr,
          member.loss,
          member.done,
          t.beta1,
          t.beta2,
          t.epsilon,
          numbers};
}

// Networks of an ensemble mostly share what costs two powers a step.
bool same_numbers(const TwoLayerMember& a, const TwoLayerMember& b, int64_t steps) {
  const TwoLayerTraining &first = *a.training, &second = *b.training;
  return first.rule == second.rule && first.updates == second.updates && first.beta1 == second.beta1 &&
         first.beta2 == second.beta2 && std::equal(a.lr, a.lr + steps, b.lr) && std::equal(a.s, a.s + steps + 1, b.s);
}

// Scratch memory begins at the next multiple of 16.
constexpr int64_t kSlack = 16;

unsigned char* aligned(void* scratch) {
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(scratch) + kSlack - 1) / kSlack * kSlack);
}

}  // namespace

bool alike(const TwoLayerTraining& a, const TwoLayerTraining& b) {
  return a.dtype == b.dtype && a.base == b.base && a.n == b.n && a.features == b.features && a.width == b.width &&
         moments_of(a) == moments_of(b) && (a.gradient_target == nullptr) == (b.gradient_target == nullptr);
}

bool serves(const TwoLayerTraining& training, const Device& device) {
  const TwoLayerTraining& t = training;
  if (t.dtype != ScalarKind::kFloat32 || t.gradient_target != nullptr) return false;
  if (t.n < 1 || t.width < 1 || t.features < 1 || t.features > kMostSmallFeatures) return false;
  if (t.n > kMostPairs || t.width > kMostPairs) return false;  // and no product overflows
  const int64_t work = t.n * t.width * std::max<int64_t>(t.features, 4) / 4;
  if (work > (t.base == kRelu && t.features == 2 ? kMostPairsBesideArcs : kMostPairs)) return false;
  return chosen(t, 1, device).blocks > 0;
}

int64_t scratch(const TwoLayerMember* members, int64_t count, int64_t steps, const Device& device) {
  return Plan(members, count, steps, device).bytes + kSlack;
}

void train(const TwoLayerMember* members, int64_t count, int64_t steps, void* scratch, const Device& device,
           void* stream) {
  const Plan plan(members, count, steps, device);
  const auto queue = static_cast<cudaStream_t>(stream);
  unsigned char* memory = aligned(scratch);
  std::vector<unsigned char> table(static_cast<size_t>(plan.partial));
  Network* network = reinterpret_cast<Network*>(table.data());
  int64_t rows = 0;
  const TwoLayerMember* last = nullptr;
  for (const Group& group : plan.groups) {
    for (const TwoLayerMember* member : group.members) {
      if (last == nullptr || !same_numbers(*member, *last, steps)) {
        float4* row = reinterpret_cast<float4*>(table.data() + plan.numbers) + rows++ * (steps + 1);
        for (int64_t step = 0; step <= steps; ++step) {
          const UpdateNumbers of_step = update_numbers(*member->training, step, step < steps ? member->lr[step] : 0.0);
          const double s = member->s[step];
          row[step] = make_float4(float(of_step.rate), float(1.0 / of_step.root), float(s), float(1.0 - s));
        }
      }
      *network++ =
          network_of(*member, reinterpret_cast<const float4*>(memory + plan.numbers) + (rows - 1) * (steps + 1));
      last = member;
    }
  }
  // From pageable memory: what the copy needs of the table is taken before this returns.
  cudaMemcpyAsync(memory, table.data(), size_t(plan.numbers + rows * (steps + 1) * int64_t(sizeof(float4))),
                  cudaMemcpyHostToDevice, queue);
  int64_t first = 0;
  for (const Group& group : plan.groups) {
    const TwoLayerTraining& training = *group.members.front()->training;
    const auto networks = int64_t(group.members.size());
    Work work{};
    work.cut = group.cut, work.spread = group.spread, work.moments = moments_of(training), work.steps = steps;
    work.scale = output_scale(training.width), work.inverse_n = 1.0 / double(training.n);
    work.partial = reinterpret_cast<float*>(memory + plan.partial);
    work.f = reinterpret_cast<double*>(memory + plan.f);
    work.barrier = reinterpret_cast<uint32_t*>(memory + plan.barrier);
    const int64_t at_once = group.spread.resident ? 1 : networks;
    for (int64_t i = 0; i < networks; i += at_once) {
      work.networks = reinterpret_cast<const Network*>(memory) + first + i;
      if (group.spread.resident) cudaMemsetAsync(work.barrier, 0, sizeof(*work.barrier), queue);
      launch(kernel_of(training, group.spread), shape_of(group.spread, at_once), stream, work);
    }
    first += networks;
  }
}

}  // namespace small
}  // namespace cuda
}  // namespace hrta
