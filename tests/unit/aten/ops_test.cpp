// The op list.
#include <algorithm>
#include <string_view>

#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;

TEST_CASE("aten: the op list is sorted, has what training needs and lacks what is dangerous") {
  size_t n = 0;
  const char* const* names = library().ops(&n);
  std::vector<std::string_view> list(names, names + n);
  CHECK(std::is_sorted(list.begin(), list.end()));
  CHECK(n > 1500);
  auto has = [&](const char* s) { return std::binary_search(list.begin(), list.end(), std::string_view(s)); };
  for (const char* s :
       {"aten::add.Tensor", "aten::mm", "aten::convolution", "aten::convolution_backward", "aten::_fused_adamw_", "aten::cudnn_batch_norm",
        "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_efficient_attention_backward", "aten::embedding",
        "aten::native_dropout", "aten::_foreach_add_.List", "aten::index_put_", "aten::uniform_", "aten::mm.dtype", "aten::copy_", "aten::nonzero",
        "aten::_fused_rms_norm", "aten::_linalg_check_errors", "aten::_to_sparse"})
    CHECK((has(s) ? std::string() : std::string(s)) == "");
  for (const char* s :
       {"aten::from_file", "aten::from_file.out", "aten::set_.source_Tensor", "aten::resize_", "aten::_print", "aten::view", "aten::t_",
        "aten::empty.memory_format", "c10d::allreduce_", "profiler::_record_function_enter_new", "aten::is_pinned", "aten::as_strided"})
    CHECK((has(s) ? std::string(s) : std::string()) == "");
}
