#include "scratch.h"

#include <mutex>
#include <utility>
#include <vector>

namespace native {
namespace {

std::mutex guard;
std::vector<std::pair<float *, int64_t>> idle;

}  // namespace

Scratch::Scratch(int64_t count) : data_(nullptr), size_(count) {
  {
    std::lock_guard<std::mutex> lock(guard);
    if (!idle.empty()) {
      data_ = idle.back().first;
      const int64_t size = idle.back().second;
      idle.pop_back();
      if (size < count) {
        delete[] data_;
        data_ = nullptr;
      } else {
        size_ = size;
      }
    }
  }
  if (data_ == nullptr) data_ = new float[size_];
}

Scratch::~Scratch() {
  std::lock_guard<std::mutex> lock(guard);
  idle.emplace_back(data_, size_);
}

}  // namespace native
