"""The structures of `kernel.cpp`, field by field as they stand there."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_void_p


class Norm(ctypes.Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("there", c_int32),
        ("centred", c_int32),
        ("epsilon", c_float),
        ("unused", c_int32),
    )


class Matrix(ctypes.Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("n", c_int32),
        ("k", c_int32),
    )


class Read(ctypes.Structure):
    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("own", c_int32),
        ("mask", c_int32),
        ("room", c_int32),
        ("unused", c_int32),
        ("bias", c_void_p),
    )


class Sublayer(ctypes.Structure):
    _fields_ = (
        ("before", Norm),
        ("after", Norm),
        ("query", Matrix),
        ("key_value", Matrix),
        ("out", Matrix),
        ("query_weight", c_void_p),
        ("key_weight", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("heads", c_int32),
        ("key_heads", c_int32),
        ("d_head", c_int32),
        ("fused", c_int32),
        ("reads", c_int32),
        ("norm_query_key", c_int32),
        ("norm_value", c_int32),
        ("norm_output", c_int32),
        ("epsilon", c_float),
        ("scale", c_float),
        ("soft_cap", c_float),
        ("unused", c_int32),
        ("read", Read * 2),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("sublayer", POINTER(Sublayer)),
        ("before", Norm),
        ("after", Norm),
        ("up", Matrix),
        ("down", Matrix),
        ("sublayers", c_int32),
        ("d_ff", c_int32),
        ("gated", c_int32),
        ("activation", c_int32),
    )


class Stream(ctypes.Structure):
    _fields_ = (
        ("layer", POINTER(Layer)),
        ("final", Norm),
        ("layers", c_int32),
        ("d_model", c_int32),
        ("place", c_int32),
        ("far", c_int32),
    )


class Mask(ctypes.Structure):
    _fields_ = (("stretch", c_void_p), ("count", c_int32), ("heads", c_int32))


class Call(ctypes.Structure):
    _fields_ = (
        ("x", c_void_p),
        ("slot", c_void_p),
        ("place", c_void_p),
        ("standing", c_void_p),
        ("states", c_void_p),
        ("state_slot", c_void_p),
        ("state_place", c_void_p),
        ("state_standing", c_void_p),
        ("mask", POINTER(Mask)),
        ("own_standing", c_void_p),
        ("read_standing", c_void_p),
        ("rows", c_int32),
        ("state_rows", c_int32),
        ("own_room", c_int32),
        ("read_room", c_int32),
        ("threads", c_int32),
        ("type", c_int32),
    )


class Head(ctypes.Structure):
    _fields_ = (
        ("transform", Matrix),
        ("matrix", Matrix),
        ("norm", Norm),
        ("scale", c_float),
        ("soft_cap", c_float),
        ("transformed", c_int32),
        ("unused", c_int32),
    )


ALL = (Norm, Matrix, Read, Sublayer, Layer, Stream, Mask, Call, Head)
TYPES = {"fp32": 0, "bf16": 1, "int8": 2}
PLACES = {"before": 0, "after": 1, "both": 2}
ACTIVATIONS = {
    "swiglu": 0,
    "geglu": 1,
    "geglu-tanh": 2,
    "gelu": 1,
    "gelu-tanh": 2,
    "relu": 3,
    "relu2": 4,
}
