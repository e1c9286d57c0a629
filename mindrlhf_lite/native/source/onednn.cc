#include "onednn.h"

#include <dlfcn.h>

namespace native {
namespace {

template <class F> bool find(void *library, const char *name, F &function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

const OneDnn *found() {
  static OneDnn all;
  void *library = dlopen("libdnnl.so.3", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  const bool is_complete = find(library, "dnnl_engine_create", all.engine_create) &&
                           find(library, "dnnl_threadpool_interop_stream_create", all.stream_create) &&
                           find(library, "dnnl_memory_desc_create_with_strides", all.desc_create) &&
                           find(library, "dnnl_memory_desc_destroy", all.desc_destroy) &&
                           find(library, "dnnl_memory_create", all.memory_create) &&
                           find(library, "dnnl_memory_set_data_handle", all.memory_set) &&
                           find(library, "dnnl_primitive_attr_create", all.attr_create) &&
                           find(library, "dnnl_primitive_attr_destroy", all.attr_destroy) &&
                           find(library, "dnnl_primitive_attr_set_fpmath_mode", all.attr_set_math) &&
                           find(library, "dnnl_primitive_attr_set_post_ops", all.attr_set_post_ops) &&
                           find(library, "dnnl_post_ops_create", all.post_ops_create) &&
                           find(library, "dnnl_post_ops_destroy", all.post_ops_destroy) &&
                           find(library, "dnnl_post_ops_append_sum", all.post_ops_sum) &&
                           find(library, "dnnl_matmul_primitive_desc_create", all.matmul_desc_create) &&
                           find(library, "dnnl_primitive_create", all.primitive_create) &&
                           find(library, "dnnl_primitive_desc_destroy", all.primitive_desc_destroy) &&
                           find(library, "dnnl_primitive_execute", all.execute);
  return is_complete ? &all : nullptr;
}

}  // namespace

const OneDnn *onednn() {
  static const OneDnn *functions = found();
  return functions;
}

}  // namespace native
