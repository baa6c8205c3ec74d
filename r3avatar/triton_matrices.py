"""Algebra of 3-vectors, 3 x 3 matrices and quaternions in Triton: one number a thread and entry, named by its place."""

import triton
import triton.language as tl

EPS = tl.constexpr(1e-12)  # the least length by which a quaternion is divided, as torch.nn.functional.normalize


@triton.jit
def load_map(maps, at, stride, mask):
    """A 3 x 4 map from twelve rows, `stride` apart; the identity where masked."""
    return (
        tl.load(maps + at, mask=mask, other=1.0), tl.load(maps + at + stride, mask=mask, other=0.0),
        tl.load(maps + at + stride * 2, mask=mask, other=0.0), tl.load(maps + at + stride * 3, mask=mask, other=0.0),
        tl.load(maps + at + stride * 4, mask=mask, other=0.0), tl.load(maps + at + stride * 5, mask=mask, other=1.0),
        tl.load(maps + at + stride * 6, mask=mask, other=0.0), tl.load(maps + at + stride * 7, mask=mask, other=0.0),
        tl.load(maps + at + stride * 8, mask=mask, other=0.0), tl.load(maps + at + stride * 9, mask=mask, other=0.0),
        tl.load(maps + at + stride * 10, mask=mask, other=1.0), tl.load(maps + at + stride * 11, mask=mask, other=0.0),
    )  # fmt: skip


@triton.jit
def load_vector(pointer, at, mask):
    """Three neighbours from `at` on; zeros where masked."""
    return (
        tl.load(pointer + at, mask=mask, other=0.0),
        tl.load(pointer + at + 1, mask=mask, other=0.0),
        tl.load(pointer + at + 2, mask=mask, other=0.0),
    )


@triton.jit
def store_vector(pointer, at, x, y, z, mask):
    """Store three neighbours from `at` on."""
    tl.store(pointer + at, x, mask=mask)
    tl.store(pointer + at + 1, y, mask=mask)
    tl.store(pointer + at + 2, z, mask=mask)


@triton.jit
def load_matrix(pointer):
    """Nine scalars of a 3 x 3 matrix."""
    return (
        tl.load(pointer), tl.load(pointer + 1), tl.load(pointer + 2), tl.load(pointer + 3), tl.load(pointer + 4),
        tl.load(pointer + 5), tl.load(pointer + 6), tl.load(pointer + 7), tl.load(pointer + 8),
    )  # fmt: skip


@triton.jit
def load_matrices(pointer, at, mask):
    """Nine neighbours from `at` on, a 3 x 3 matrix; the identity where masked."""
    return (
        tl.load(pointer + at, mask=mask, other=1.0), tl.load(pointer + at + 1, mask=mask, other=0.0),
        tl.load(pointer + at + 2, mask=mask, other=0.0), tl.load(pointer + at + 3, mask=mask, other=0.0),
        tl.load(pointer + at + 4, mask=mask, other=1.0), tl.load(pointer + at + 5, mask=mask, other=0.0),
        tl.load(pointer + at + 6, mask=mask, other=0.0), tl.load(pointer + at + 7, mask=mask, other=0.0),
        tl.load(pointer + at + 8, mask=mask, other=1.0),
    )  # fmt: skip


@triton.jit
def store_matrices(pointer, at, m00, m01, m02, m10, m11, m12, m20, m21, m22, mask):
    """Store a 3 x 3 matrix to nine neighbours from `at` on."""
    store_vector(pointer, at, m00, m01, m02, mask)
    store_vector(pointer, at + 3, m10, m11, m12, mask)
    store_vector(pointer, at + 6, m20, m21, m22, mask)


@triton.jit
def apply(a00, a01, a02, a10, a11, a12, a20, a21, a22, x, y, z):
    """The 3 x 3 matrix a times the vector (x, y, z)."""
    return a00 * x + a01 * y + a02 * z, a10 * x + a11 * y + a12 * z, a20 * x + a21 * y + a22 * z


@triton.jit
def multiply(a00, a01, a02, a10, a11, a12, a20, a21, a22, b00, b01, b02, b10, b11, b12, b20, b21, b22):
    """The product of two 3 x 3 matrices."""
    return (
        a00 * b00 + a01 * b10 + a02 * b20, a00 * b01 + a01 * b11 + a02 * b21, a00 * b02 + a01 * b12 + a02 * b22,
        a10 * b00 + a11 * b10 + a12 * b20, a10 * b01 + a11 * b11 + a12 * b21, a10 * b02 + a11 * b12 + a12 * b22,
        a20 * b00 + a21 * b10 + a22 * b20, a20 * b01 + a21 * b11 + a22 * b21, a20 * b02 + a21 * b12 + a22 * b22,
    )  # fmt: skip


@triton.jit
def inverse(a00, a01, a02, a10, a11, a12, a20, a21, a22):
    """The inverse of a 3 x 3 matrix by cofactors."""
    c00, c10, c20 = a11 * a22 - a12 * a21, a12 * a20 - a10 * a22, a10 * a21 - a11 * a20
    s = 1.0 / (a00 * c00 + a01 * c10 + a02 * c20)
    return (
        c00 * s, (a02 * a21 - a01 * a22) * s, (a01 * a12 - a02 * a11) * s,
        c10 * s, (a00 * a22 - a02 * a20) * s, (a02 * a10 - a00 * a12) * s,
        c20 * s, (a01 * a20 - a00 * a21) * s, (a00 * a11 - a01 * a10) * s,
    )  # fmt: skip


@triton.jit
def rotation_matrix(w, x, y, z):
    """The rotation matrix of a unit quaternion."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@triton.jit
def load_unit_quaternion(pointer, at, mask):
    """A quaternion made a unit, and the length that it was divided by."""
    w = tl.load(pointer + at, mask=mask, other=1.0)
    x, y, z = load_vector(pointer, at + 1, mask)
    length = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), EPS)
    return w / length, x / length, y / length, z / length, length


@triton.jit
def store_map(to, stride, m00, m01, m02, m03, m10, m11, m12, m13, m20, m21, m22, m23, mask):
    """Store a 3 x 4 map to twelve rows, `stride` apart."""
    tl.store(to, m00, mask=mask)
    tl.store(to + stride, m01, mask=mask)
    tl.store(to + stride * 2, m02, mask=mask)
    tl.store(to + stride * 3, m03, mask=mask)
    tl.store(to + stride * 4, m10, mask=mask)
    tl.store(to + stride * 5, m11, mask=mask)
    tl.store(to + stride * 6, m12, mask=mask)
    tl.store(to + stride * 7, m13, mask=mask)
    tl.store(to + stride * 8, m20, mask=mask)
    tl.store(to + stride * 9, m21, mask=mask)
    tl.store(to + stride * 10, m22, mask=mask)
    tl.store(to + stride * 11, m23, mask=mask)
