// What torch asks of CUDA without a tensor: which device is current, and streams. Everything is done at once.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr c10::DeviceIndex CARDS = 2;
thread_local c10::DeviceIndex current = 0;

c10::DeviceIndex exchange(c10::DeviceIndex next) {
  const auto before = current;
  if (next >= 0) current = next;
  return before;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device getDevice() const override { return {c10::kCUDA, current}; }
  c10::Device exchangeDevice(c10::Device next) const override { return {c10::kCUDA, exchange(next.index())}; }
  void setDevice(c10::Device next) const override { exchange(next.index()); }
  void uncheckedSetDevice(c10::Device next) const noexcept override { exchange(next.index()); }
  c10::DeviceIndex deviceCount() const noexcept override { return CARDS; }
  c10::Stream getStream(c10::Device of) const override {
    return c10::Stream(c10::Stream::DEFAULT, {c10::kCUDA, of.index() < 0 ? current : of.index()});
  }
  c10::Stream getDefaultStream(c10::Device of) const override { return getStream(of); }
  c10::Stream getNewStream(c10::Device of, int) const override { return getStream(of); }
  c10::Stream exchangeStream(c10::Stream next) const override { return getStream(next.device()); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {  // without `override`: older releases of torch ask less
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const {}
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasCUDA() const { return true; }
  bool hasCUDART() const { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const { return true; }
  int getNumGPUs() const { return CARDS; }
  c10::DeviceIndex deviceCount() const { return CARDS; }
  c10::DeviceIndex current_device() const { return current; }
  c10::DeviceIndex getCurrentDevice() const { return current; }
  void setCurrentDevice(c10::DeviceIndex next) const { exchange(next); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex next) const { return exchange(next); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex next) const { return exchange(next); }
  c10::Allocator* getPinnedMemoryAllocator() const { return c10::GetCPUAllocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const { return at::detail::createCPUGenerator(); }
};

Guard guard;
c10::impl::DeviceGuardImplRegistrar registered(c10::kCUDA, &guard);

}  // namespace

extern "C" int current_card() { return current; }
extern "C" void set_card(int index) { exchange(index); }

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}
