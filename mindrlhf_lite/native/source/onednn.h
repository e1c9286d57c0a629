// The few functions of oneDNN 3's C interface that are used here, found in the library that MindSpore has loaded.
#pragma once
#include <cstdint>
#include <functional>

// oneDNN calls this by its table of virtual functions: names, order and types are its own.
namespace dnnl {
namespace threadpool_interop {
struct threadpool_iface {
  virtual int get_num_threads() const = 0;
  virtual bool get_in_parallel() const = 0;
  virtual void parallel_for(int n, const std::function<void(int, int)> &fn) = 0;
  virtual uint64_t get_flags() const = 0;
  virtual void wait() = 0;
  virtual ~threadpool_iface() = default;
};
}  // namespace threadpool_interop
}  // namespace dnnl

namespace native {

struct Argument {  // dnnl_exec_arg_t
  int number;
  void *memory;
};
constexpr int kSource = 1, kResult = 17, kWeights = 33, kBias = 41;  // DNNL_ARG_*
constexpr int kUndefined = 0, kFloat32 = 3;                           // dnnl_data_type_t
enum FloatMath { kStrict = 0, kBfloat16 = 1 };                        // dnnl_fpmath_mode_*

struct OneDnn {
  int (*engine_create)(void **engine, int kind, size_t index);
  int (*stream_create)(void **stream, void *engine, void *threads);
  int (*desc_create)(void **desc, int rank, const int64_t *sizes, int type, const int64_t *strides);
  int (*desc_destroy)(void *desc);
  int (*memory_create)(void **memory, const void *desc, void *engine, void *data);
  int (*memory_set)(void *memory, void *data);
  int (*attr_create)(void **attr);
  int (*attr_destroy)(void *attr);
  int (*attr_set_math)(void *attr, int mode);
  int (*attr_set_post_ops)(void *attr, const void *post_ops);
  int (*post_ops_create)(void **post_ops);
  int (*post_ops_destroy)(void *post_ops);
  int (*post_ops_sum)(void *post_ops, float scale, int32_t zero_point, int type);
  int (*matmul_desc_create)(void **desc, void *engine, const void *a, const void *b, const void *bias, const void *c,
                            const void *attr);
  int (*primitive_create)(void **primitive, const void *desc);
  int (*primitive_desc_destroy)(void *desc);
  int (*execute)(const void *primitive, void *stream, int count, const Argument *arguments);
};

// nullptr where the process has no oneDNN 3 with threads of the caller's.
const OneDnn *onednn();

}  // namespace native
