// What the lanes of a warp exchange, atomics, and numbers by their bits, for the emulation (cuda_runtime.h).
#pragma once

#include "blocks.h"

namespace emulation {

// Every lane gives a value; `read` gets those of all.
template <typename T, typename Read>
auto exchanged(T value, const Read& read) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t* exchange = here->exchange[threadIdx.x / kWarp];
  memcpy(exchange + threadIdx.x % kWarp, &value, sizeof(T));
  __syncwarp();
  const auto result = read([&](int lane) {
    T of_lane;
    memcpy(&of_lane, exchange + lane, sizeof(T));
    return of_lane;
  });
  __syncwarp();
  return result;
}

inline int lane() {
  return int(threadIdx.x) % kWarp;
}

}  // namespace emulation

template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return emulation::exchanged(value, [&](auto of) { return of(emulation::lane() ^ offset); });
}
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return emulation::exchanged(value, [&](auto of) { return of(from & 31); });
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned offset) {
  const int from = emulation::lane() - int(offset);
  return emulation::exchanged(value, [&](auto of) { return of(from < 0 ? emulation::lane() : from); });
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
  const int from = emulation::lane() + int(offset);
  return emulation::exchanged(value, [&](auto of) { return of(from > 31 ? emulation::lane() : from); });
}
inline unsigned __ballot_sync(unsigned, int vote) {
  return emulation::exchanged(vote != 0, [&](auto of) {
    unsigned votes = 0;
    for (int lane = 0; lane < emulation::kWarp; ++lane) votes |= unsigned(of(lane)) << lane;
    return votes;
  });
}
inline int __any_sync(unsigned mask, int vote) {
  return __ballot_sync(mask, vote) != 0;
}
inline int __all_sync(unsigned mask, int vote) {
  return __ballot_sync(mask, vote) == ~0u;
}
template <typename T>
T __reduce_add_sync(unsigned, T value) {
  return emulation::exchanged(value, [&](auto of) {
    T sum = 0;
    for (int lane = 0; lane < emulation::kWarp; ++lane) sum += of(lane);
    return sum;
  });
}
template <typename T>
T __reduce_max_sync(unsigned, T value) {
  return emulation::exchanged(value, [&](auto of) {
    T most = of(0);
    for (int lane = 1; lane < emulation::kWarp; ++lane) most = std::max(most, of(lane));
    return most;
  });
}

// --- memory and numbers ---------------------------------------------------------------------------------------------

template <typename T>
T atomicAdd(T* target, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*target).fetch_add(value);
}
template <typename T>
T atomicMax(T* target, std::type_identity_t<T> value) {
  std::atomic_ref<T> place(*target);
  T old = place.load();
  while (old < value && !place.compare_exchange_weak(old, value)) {
  }
  return old;
}
template <typename T>
T __ldcg(const T* source) {
  return *source;
}
template <typename T>
T __ldg(const T* source) {
  return *source;
}
template <typename To, typename From>
To emulated_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}
inline int __float_as_int(float x) {
  return emulated_bits<int>(x);
}
inline unsigned __float_as_uint(float x) {
  return emulated_bits<unsigned>(x);
}
inline float __int_as_float(int x) {
  return emulated_bits<float>(x);
}
inline float __uint_as_float(unsigned x) {
  return emulated_bits<float>(x);
}
inline long long __double_as_longlong(double x) {
  return emulated_bits<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return emulated_bits<double>(x);
}
inline int __double2hiint(double x) {
  return int(emulated_bits<uint64_t>(x) >> 32);
}
inline int __double2loint(double x) {
  return int(uint32_t(emulated_bits<uint64_t>(x)));
}

#include "warpgroups.h"
