import gc
import threading

import numpy as np
import pytest

from huterox_shm.tensor import array_over, block_array, on_last_view_gone, read_only


def make_block(nbytes=1024, readonly=False):
    view = memoryview(bytearray(nbytes))
    return block_array(view.toreadonly() if readonly else view)


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "?", "<c16", "u1"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0,), (2, 0, 3)])
def test_array_has_the_form_and_the_bytes_that_were_asked_for(dtype, shape):
    block = make_block()
    array = array_over(block, dtype, shape, 64)
    assert (array.dtype, array.shape) == (np.dtype(dtype), shape)
    assert type(array) is np.ndarray
    assert array.flags.c_contiguous
    array[...] = 1
    expected = np.ones(shape, dtype).tobytes()
    assert bytes(block[64 : 64 + len(expected)]) == expected


def test_arrays_over_a_read_only_block_refuse_writes():
    array = array_over(make_block(readonly=True), "<f4", (4,))
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_read_only_view_shares_the_bytes_and_refuses_writes():
    array = array_over(make_block(), "<f4", (4,))
    view = read_only(array)
    array[0] = 7
    assert view[0] == 7
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    array[0] = 8


@pytest.mark.parametrize(
    ("dtype", "shape", "offset"), [("<f4", (257,), 0), ("<f4", (1,), 1021), ("<f4", (2, -3), 0), ("u1", (1,), -1)]
)
def test_array_that_does_not_fit_is_refused(dtype, shape, offset):
    with pytest.raises((ValueError, TypeError)):
        array_over(make_block(), dtype, shape, offset)


WAYS = {
    "array": lambda block: array_over(block, "<f4", (16,)),
    "slice": lambda block: array_over(block, "<f4", (16,))[2:4],
    "view of a view": lambda block: array_over(block, "<f4", (16,)).reshape(4, 4)[1:].T.view("<i4"),
    "read-only view": lambda block: read_only(array_over(block, "<f4", (16,))),
    "memoryview": lambda block: memoryview(array_over(block, "<f4", (16,))),
    "frombuffer": lambda block: np.frombuffer(array_over(block, "<f4", (16,)).data, "<i4"),
    "DLPack": lambda block: np.from_dlpack(array_over(block, "<f4", (16,))),
    "array over the block's memoryview": lambda block: np.ndarray((4,), "<f4", memoryview(block)[64:]),
    "slice of the block": lambda block: block[10:20],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_block_ends_with_its_last_view(way):
    gone = []
    block = make_block()
    on_last_view_gone(block, gone.append, "gone")
    view = way(block)
    del block
    assert gone == []
    del view
    assert gone == ["gone"]


def test_copy_does_not_hold_the_block():
    gone = []
    block = make_block()
    on_last_view_gone(block, gone.append, "gone")
    copy = array_over(block, "<f4", (16,)).copy()
    del block
    assert gone == ["gone"]
    assert copy.sum() == 0


def test_view_in_a_reference_cycle_ends_when_it_is_collected():
    gone = []
    block = make_block()
    on_last_view_gone(block, gone.append, "gone")
    cycle = [array_over(block, "<f4", (16,))]
    cycle.append(cycle)
    del block, cycle
    gc.collect()
    assert gone == ["gone"]


def test_view_that_ends_in_another_thread_is_noticed():
    gone = []
    block = make_block()
    on_last_view_gone(block, lambda: gone.append(threading.get_ident()))
    box = [array_over(block, "<f4", (16,))]
    del block
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join(10)
    assert gone == [thread.ident]


@pytest.mark.torch
def test_torch_tensor_holds_the_block():
    torch = pytest.importorskip("torch")
    gone = []
    block = make_block()
    on_last_view_gone(block, gone.append, "gone")
    tensor = torch.from_numpy(array_over(block, "<f4", (16,)))[3:]
    tensor.fill_(2.0)
    del block
    assert gone == []
    del tensor
    assert gone == ["gone"]
