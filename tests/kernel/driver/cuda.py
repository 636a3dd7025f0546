"""The double of what a worker asks of CUDA's runtime itself: to register memory, and to forget an error."""

HOST_MEMORY_ALREADY_REGISTERED = 712
HOST_MEMORY_NOT_REGISTERED = 713
INVALID_VALUE = 1
PAGE_NBYTES = 4096


class Cudart:
    """As `torch.cuda.cudart()` is: functions that return an error's number, and remember it."""

    def __init__(self, register_code: int = 0) -> None:
        self.register_code = register_code
        self.unregister_code = 0
        self.registered: dict[int, int] = {}
        self.last_error = 0

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        if self.register_code:
            return self._fail(self.register_code)
        if not nbytes or address % PAGE_NBYTES or nbytes % PAGE_NBYTES or flags:
            return self._fail(INVALID_VALUE)
        if any(begin < address + nbytes and address < begin + size for begin, size in self.registered.items()):
            return self._fail(HOST_MEMORY_ALREADY_REGISTERED)
        self.registered[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        if self.unregister_code:
            return self._fail(self.unregister_code)
        if self.registered.pop(address, None) is None:
            return self._fail(HOST_MEMORY_NOT_REGISTERED)
        return 0

    def cudaGetLastError(self) -> int:
        code, self.last_error = self.last_error, 0
        return code

    def _fail(self, code: int) -> int:
        self.last_error = code
        return code
