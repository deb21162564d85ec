// A device for tests, under PrivateUse1, that runs behind its host as a GPU does.
//
// Values are computed at once, on the CPU. Time is spent on a timeline for each stream: work begins when the stream is
// free and the host has enqueued it, whichever is later, and takes what the test has scripted. Events are stamped on
// that timeline, and to synchronise is to sleep until it is over. So a device time is exactly the scripted one wherever
// the host keeps ahead, however busy the machine is.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
using Moment = Clock::time_point;
constexpr auto kDevice = c10::DeviceType::PrivateUse1;
const c10::Device here{kDevice, 0};

Clock::duration duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// What a test has scripted, and what has become of it.
class Timeline {
 public:
  int64_t current() const { return current_; }

  int64_t exchange_current(int64_t stream) { return std::exchange(current_, stream); }

  int64_t add_stream() {
    std::lock_guard lock(mutex_);
    free_at_.emplace_back();
    return static_cast<int64_t>(free_at_.size()) - 1;
  }

  void set_scale(double scale) { scale_ = scale; }

  void set_cost(const std::string& name, double seconds) {
    std::lock_guard lock(mutex_);
    costs_[name] = duration(seconds);
  }

  // Work of an operator: takes the time that is scripted for its name, or else for all.
  void launch(const std::string& name) {
    std::lock_guard lock(mutex_);
    check();
    auto found = costs_.find(name);
    if (found == costs_.end()) found = costs_.find("");
    if (found != costs_.end()) extend(found->second);
  }

  void spend(double seconds) {
    std::lock_guard lock(mutex_);
    check();
    extend(duration(seconds));
  }

  // Work that fails when its turn comes: the host hears of it when it next asks something of the device after that.
  void fail(const std::string& message) {
    std::lock_guard lock(mutex_);
    check();
    fails_at_ = std::max(Clock::now(), free_at_[current_]);
    message_ = message;
  }

  Moment record(int64_t stream) {
    std::lock_guard lock(mutex_);
    check();
    return std::max(Clock::now(), free_at_[stream]);
  }

  void block(int64_t stream, Moment until) {
    std::lock_guard lock(mutex_);
    free_at_[stream] = std::max(free_at_[stream], until);
  }

  bool is_idle(int64_t stream) {
    std::lock_guard lock(mutex_);
    return free_at_[stream] <= Clock::now();
  }

  void wait_for_stream(int64_t stream) {
    Moment until;
    {
      std::lock_guard lock(mutex_);
      until = free_at_[stream];
    }
    wait(until);
  }

  void wait_for_all() {
    Moment until;
    {
      std::lock_guard lock(mutex_);
      until = *std::max_element(free_at_.begin(), free_at_.end());
    }
    wait(until);
  }

  void wait(Moment until) {
    {
      std::lock_guard lock(mutex_);
      ++synchronizations_;
      if (fails_at_) until = std::min(until, *fails_at_);
    }
    std::this_thread::sleep_until(until);
    std::lock_guard lock(mutex_);
    check();
  }

  int64_t synchronizations() {
    std::lock_guard lock(mutex_);
    return synchronizations_;
  }

 private:
  void extend(Clock::duration cost) {
    auto& free_at = free_at_[current_];
    free_at = std::max(Clock::now(), free_at) + std::chrono::duration_cast<Clock::duration>(scale_ * cost);
  }

  void check() const {
    if (fails_at_ && *fails_at_ <= Clock::now())
      throw c10::AcceleratorError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, 1, message_);
  }

  std::mutex mutex_;
  std::vector<Moment> free_at_{Moment{}};
  std::map<std::string, Clock::duration> costs_;
  double scale_ = 1.0;
  std::optional<Moment> fails_at_;
  std::string message_;
  int64_t synchronizations_ = 0;
  static thread_local int64_t current_;
};
thread_local int64_t Timeline::current_ = 0;

// Never destroyed: a process may end while others still free their memory.
Timeline& timeline() {
  static auto* it = new Timeline;
  return *it;
}

bool has_timed_events = true;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return here; }
  c10::Device getDevice() const override { return here; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  c10::Stream getStream(c10::Device) const override { return stream(timeline().current()); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(timeline().add_stream()); }
  c10::Stream exchangeStream(c10::Stream to) const override { return stream(timeline().exchange_current(to.id())); }
  bool queryStream(const c10::Stream& asked) const override { return timeline().is_idle(asked.id()); }
  void synchronizeStream(const c10::Stream& asked) const override { timeline().wait_for_stream(asked.id()); }
  void synchronizeDevice(c10::DeviceIndex) const override { timeline().wait_for_all(); }

  void record(void** event, const c10::Stream& on, c10::DeviceIndex, c10::EventFlag flag) const override {
    TORCH_CHECK(has_timed_events || flag != c10::EventFlag::BACKEND_DEFAULT, "events of this device take no times");
    if (!*event) *event = new Moment;
    moment(*event) = timeline().record(on.id());
  }
  void block(void* event, const c10::Stream& on) const override { timeline().block(on.id(), moment(event)); }
  bool queryEvent(void* event) const override { return !event || moment(event) <= Clock::now(); }
  void synchronizeEvent(void* event) const override { timeline().wait(moment(event)); }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<Moment*>(event); }
  double elapsedTime(void* begin, void* end, c10::DeviceIndex) const override {
    TORCH_CHECK(begin && end && queryEvent(begin) && queryEvent(end), "both events must have happened");
    return std::chrono::duration<double, std::milli>(moment(end) - moment(begin)).count();
  }

 private:
  static c10::Stream stream(int64_t id) { return c10::Stream(c10::Stream::UNSAFE, here, id); }
  static Moment& moment(void* event) { return *static_cast<Moment*>(event); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// Host memory, of which there is as much as the test says, and statistics of its use.
class Allocator final : public c10::DeviceAllocator {
 public:
  void set_capacity(int64_t bytes) { capacity_ = bytes; }

  c10::DataPtr allocate(size_t asked) override {
    if (!asked) return {nullptr, nullptr, &release, here};
    auto bytes = static_cast<int64_t>(asked);
    std::lock_guard lock(mutex());
    TORCH_CHECK_WITH(
        OutOfMemoryError, now_ + bytes <= capacity_, "lagging is out of memory: tried to allocate ", bytes, " bytes of ",
        capacity_ - now_);
    auto* block = static_cast<int64_t*>(std::aligned_alloc(kHead, (asked + 2 * kHead - 1) / kHead * kHead));
    TORCH_CHECK_WITH(OutOfMemoryError, block, "the host is out of memory");
    *block = bytes;
    now_ += bytes;
    peak_ = std::max(peak_, now_);
    auto* data = reinterpret_cast<char*>(block) + kHead;
    return {data, data, &release, here};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  void resetAccumulatedStats(c10::DeviceIndex) override {}

  void resetPeakStats(c10::DeviceIndex) override {
    std::lock_guard lock(mutex());
    peak_ = now_;
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    std::lock_guard lock(mutex());
    c10::CachingDeviceAllocator::DeviceStats found;
    found.allocated_bytes[0].current = now_;
    found.allocated_bytes[0].peak = peak_;
    found.reserved_bytes[0] = found.allocated_bytes[0];
    return found;
  }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    std::lock_guard lock(mutex());
    return {static_cast<size_t>(capacity_ - now_), static_cast<size_t>(capacity_)};
  }

 private:
  static constexpr size_t kHead = 64;

  static void release(void* data) {
    if (!data) return;
    auto* block = reinterpret_cast<int64_t*>(static_cast<char*>(data) - kHead);
    std::lock_guard lock(mutex());
    now_ -= *block;
    std::free(block);
  }

  static std::mutex& mutex() {
    static auto* it = new std::mutex;
    return *it;
  }

  static inline int64_t now_ = 0, peak_ = 0, capacity_ = int64_t{1} << 50;
};

Allocator& allocator() {
  static auto* it = new Allocator;
  return *it;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto fresh = allocator().allocate(bytes);
    if (auto kept = std::min(bytes, storage.nbytes())) std::memcpy(fresh.get(), storage.data(), kept);
    storage.unsafeGetStorageImpl()->set_data_ptr(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

thread_local bool within_operator = false;

// While it lives, copies between host and device belong to an operator that the CPU computes: they take no time.
struct Within {
  bool outer = std::exchange(within_operator, true);
  ~Within() { within_operator = outer; }
};

at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!tensor.is_privateuseone()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &allocator(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (!within_operator) {
    timeline().launch("copy");
    if (to.is_cpu() && !non_blocking) timeline().wait_for_stream(timeline().current());
  }
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& tensor) {
  timeline().wait_for_stream(timeline().current());
  return on_cpu(tensor).item();
}

const at::Tensor& resize(
    const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat> /*as it is*/) {
  auto* found = tensor.unsafeGetTensorImpl();
  found->set_sizes_contiguous(size);
  auto bytes = static_cast<size_t>(found->storage_offset() + found->numel()) * tensor.dtype().itemsize();
  if (bytes > found->storage().nbytes()) Hooks().resizePrivateUse1Bytes(found->storage(), bytes);
  return tensor;
}

at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
    int64_t groups) {
  auto host_bias = bias && bias->defined() ? std::optional(on_cpu(*bias)) : std::nullopt;
  auto made = at::convolution(
      on_cpu(input), on_cpu(weight), host_bias, stride, padding, dilation, transposed, output_padding, groups);
  auto output = empty(made.sizes(), made.scalar_type(), {}, {}, {}, {});
  on_cpu(output).copy_(made);
  timeline().launch("aten::convolution_overrideable");
  return output;
}

void compute_on_cpu(const c10::OperatorHandle& op, c10::Stack* stack) {
  if (within_operator) return at::native::cpu_fallback(op, stack);
  {
    Within operation;
    at::native::cpu_fallback(op, stack);
  }
  timeline().launch(op.operator_name().name);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &item);
  library.impl("resize_", &resize);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  library.impl("convolution_overrideable", &convolution);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute_on_cpu>());
}

TORCH_LIBRARY(lagging, library) {
  static auto* hooks = new Hooks;
  c10::SetAllocator(kDevice, &allocator());
  at::RegisterPrivateUse1HooksInterface(hooks);
  library.def("set_cost(str operator, float seconds) -> ()", [](const std::string& name, double seconds) {
    timeline().set_cost(name, seconds);
  });
  library.def("set_scale(float scale) -> ()", [](double scale) { timeline().set_scale(scale); });
  library.def("spend(float seconds) -> ()", [](double seconds) { timeline().spend(seconds); });
  library.def("fail(str message) -> ()", [](const std::string& message) { timeline().fail(message); });
  library.def("set_memory(int bytes) -> ()", [](int64_t bytes) { allocator().set_capacity(bytes); });
  library.def("set_timed_events(bool timed) -> ()", [](bool timed) { has_timed_events = timed; });
  library.def("synchronizations() -> int", [] { return timeline().synchronizations(); });
}
