"""What differs from CPU PyTorch and why: (entry of op_db, dtypes, directions, reason). Reviewed by hand; a row that no longer applies is reported by
scripts/conformance, so that the table only shrinks."""
NO_KERNEL = "PyTorch has no CUDA kernel for it"
STATISTICS = "in evaluation CUDA returns statistics of the channels' shape, the CPU empty ones"
CHUNKED = "PyTorch's Python takes other steps, with other roundings, for CUDA tensors"
ANY = "*"

KNOWN = [
    ("addbmm", ANY, "inplace", "in place with a shape that broadcasts: CUDA refuses, the CPU resizes"),
    ("_native_batch_norm_legit", ANY, "forward out", STATISTICS),
    ("native_batch_norm", ANY, "forward out", STATISTICS),
    ("fft.ihfft2", ANY, "out", "PyTorch's own out= writes nothing when there is one dimension, on the CPU too"),
    ("fft.ihfftn", ANY, "out", "PyTorch's own out= writes nothing when there is one dimension, on the CPU too"),
    ("narrow_copy", ANY, "out", NO_KERNEL),
    ("nn.functional.scaled_dot_product_attention", "bfloat16 float16", "backward",
     "CUDA's kernel rounds the mask's gradient before PyTorch sums it over the batch; the CPU has no such kernel and rounds once"),
    ("nn.functional.linear_cross_entropy.chunked", "bfloat16 float16", "forward backward", CHUNKED),
    ("nn.functional.linear_cross_entropy.chunked_none", "bfloat16 float16", "forward backward", CHUNKED),
    ("linalg.ldl_solve", "complex64", "forward", "PyTorch refuses hermitian=True on CUDA"),
    ("renorm", "complex64", "backward", "the CPU's own gradient is NaN; the device's is not"),
    ("sparse.mm.reduce", ANY, "forward backward", NO_KERNEL),
    ("sparse.sampled_addmm", ANY, "out", "cuSPARSE is asked for a buffer's size when there is nothing to multiply"),
    ("tensor_split", ANY, "forward backward", "its indices must lie on the host, also with CUDA"),
    ("torch.ops.aten._scaled_dot_product_flash_attention_for_cpu", ANY, "forward backward", NO_KERNEL),
]


def reason(row):
    """Why this row of opinfo_client.py may fail, or None."""
    for entry, dtypes, directions, why in KNOWN:
        if entry == row["entry"] and (dtypes == ANY or row["dtype"] in dtypes.split()) and row["direction"] in directions.split():
            return why
    return None
