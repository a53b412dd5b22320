// What a CUDA device offers, asked once; and the limits that tests set below it.
#pragma once

#include <cstdint>

namespace hrta {
namespace cuda {

struct Device {
  int capability;       // 90 for compute capability 9.0
  int multiprocessors;  // resident blocks of a cooperative launch are counted by them; never the cut of work
  int shared;           // bytes of shared memory that a block may have when it asks for them
  int cluster;          // blocks that a cluster may have; 1 where there are no clusters
};

// The device's, lowered to the limits.
Device device_of(int device);

// Whether there are kernels for wgmma: they are in a binary that was built for sm_90a, and run on no other card.
bool has_wgmma(const Device& device);

// Whether the device runs the image for sm_90a whatever the limits: what leaves that card to wgmma is not in it.
bool runs_wgmma(int device);

// As 13000 for CUDA 13.0: what the driver serves, 0 where there is none, and the runtime that is linked in.
int driver_version();
int runtime_version();

// What does not fit the limits takes the next way, as on a smaller card. Zero lifts one.
void limit_devices(const Device& limits);

}  // namespace cuda
}  // namespace hrta
