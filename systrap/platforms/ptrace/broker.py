"""The two tracers of a platform: the broker, a thread of its own, and the server, the thread that calls next_ready()."""

import signal
import time
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread, get_ident
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from systrap.host import ptrace
from systrap.platform import PlatformError
from systrap.platforms.ptrace.jobs import Job
from systrap.platforms.ptrace.stub import Stub, Tracee
from systrap.platforms.ptrace.tracer import Tracer

if TYPE_CHECKING:
    from systrap.platforms.ptrace.context import PtraceContext

_T = TypeVar("_T")

_OWN: Final = ptrace.WALL | ptrace.WNOTHREAD
_EINTR: Final = 4
_REAP_SECONDS: Final = 2.0
_REAP_PAUSE: Final = 0.001


class _Request(Job, Generic[_T]):
    """A function whose result another thread waits for."""

    __slots__ = ("_done", "_error", "_function", "_results")

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self._done = Lock()
        self._done.acquire()
        self._error: Exception | None = None
        self._results: list[_T] = []

    def __call__(self) -> None:
        """Call the function and pass on what it returns or raises."""
        try:
            self._results.append(self._function())
        except Exception as error:  # raised again in the thread that asked
            self._error = error
        self._done.release()

    def fail(self, error: PlatformError) -> None:
        """Answer without a call."""
        self._error = error
        self._done.release()

    def result(self) -> _T:
        """Wait for the answer."""
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._results[0]


class Broker(Tracer):
    """The tracer that lives as long as the platform: parent of all stubs, tracer of their leaders and of switch()'s contexts."""

    def __init__(self, set_up: "Callable[[Broker], None]") -> None:
        """Start the thread and call ``set_up`` on it, which creates the source and hangs the bell. Raises what that raises."""
        super().__init__(0)
        self._spins = 0  # Whoever asked needs the interpreter to take the answer.
        self._ended = False
        first = _Request(partial(set_up, self))
        self._thread = Thread(target=self._main, args=(first,), name="ptrace broker", daemon=True)
        self._thread.start()
        first.result()

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function on the broker's thread and wait for it. Any thread. Raises PlatformError when the broker is gone."""
        if get_ident() == self.ident:
            return function()
        request = _Request(function)
        self.post(request)
        return request.result()

    def post(self, job: Job) -> None:
        """Have a job done on the broker's thread. It fails when the broker is gone."""
        super().post(job)
        if self._ended:
            self._refuse()

    def close(self) -> None:
        """End the thread, which reaps what it traces. All stubs were killed. Any thread but the broker's."""
        try:
            self.call(self._end)
        except PlatformError:
            # It has ended, or is about to: the bell was among the killed.
            self._ended = True
        self._thread.join(2 * _REAP_SECONDS)

    def _end(self) -> None:
        self._ended = True

    def deliver(self, context: "PtraceContext") -> None:
        """Wake the thread that waits in switch()."""
        self.count(context)
        waiter = context.waiter
        if waiter is not None:
            context.waiter = None
            waiter.release()

    def _main(self, first: "_Request[None]") -> None:
        """Be the broker: serve other threads and stops, until the platform is closed or its stubs are lost."""
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        self.ident = get_ident()
        try:
            first()
            while not self._ended:
                self._serve()
        except PlatformError:
            return  # The bell died, or was never hung: nothing can reach this thread any more.
        finally:
            self._ended = True
            self._wind_up()

    def _serve(self) -> None:
        """Do what was asked, then wait for one stop."""
        while self._inbox:
            self._inbox.popleft()()
        if self._ended:
            return
        tid = self.sleep(_OWN)
        if tid > 0:
            context = self.collect(tid, self._waiter.status)
            if context is not None:
                self.deliver(context)
                self.sweep()

    def _wind_up(self) -> None:
        """Kill what is left, reap it, and answer everybody who still waits."""
        for stub in {tracee.stub for tracee in self.tracees.values()}:
            stub.kill()
        give_up = time.monotonic() + _REAP_SECONDS
        while self.tracees and time.monotonic() < give_up:
            # Not by group: a source that died early had none yet. A leader waits for threads that the server traces.
            for tracee in list(self.tracees.values()):
                tid = self._waiter.wait(tracee.tid, _OWN | ptrace.WNOHANG)
                if tid > 0 and ptrace.is_stopped(self._waiter.status):
                    continue
                if tid != 0:
                    context = self._gone(tracee, self._waiter.status if tid > 0 else None)
                    if context is not None:
                        self.deliver(context)
            time.sleep(_REAP_PAUSE)
        self.timer.close()
        self._refuse()

    def _refuse(self) -> None:
        """Answer requests that nobody will carry out."""
        while self._inbox:
            self._inbox.popleft().fail(PlatformError("the platform is closed, or its stub processes were killed"))


class Server(Tracer):
    """The thread that calls next_ready(), tracing the threads of the contexts it serves: no other thread on the way."""

    def __init__(self, broker: Broker, bells: Stub) -> None:
        """Make the calling thread the server. Raises PlatformError, OSError."""
        super().__init__(get_ident())
        self.group = broker.group
        self._broker = broker
        self.hang(self.borrow(bells))

    def borrow(self, stub: Stub) -> Tracee:
        """Have the broker make a thread, and take it over."""
        return self.take(self._broker.call(partial(self._broker.lend, stub)), stub)

    def stopped(self, stub: Stub) -> Tracee | None:
        """Return the thread of the stub that stopped last, if it is ours and has not gone on."""
        spare = stub.spare
        if spare is not None and spare.tracer is self and spare.context is None and not spare.dead:
            return spare
        return None

    def close(self) -> None:
        """Reap everything this thread traces. All stubs were killed. On the server's thread."""
        for stub in {tracee.stub for tracee in self.tracees.values()}:
            self.reap(stub)
        self._bell = None
        self.timer.close()

    def next_ready(self, deadline: float | None) -> "PtraceContext | None":
        """See Platform.next_ready(). Raises PlatformError when the platform is closed or its bell was killed."""
        while True:
            while self._inbox:
                self._inbox.popleft()()
            if self._woken:
                self._woken = False
                return None
            if self.ready:
                return self.ready.popleft()
            options = _OWN
            if deadline is not None:
                if deadline <= time.monotonic():
                    options |= ptrace.WNOHANG
                elif deadline != self._armed:
                    self.timer.arm(deadline)
                    self._armed = deadline
            tid = self.sleep(options)
            if tid > 0:
                context = self.collect(tid, self._waiter.status)
                if context is not None:
                    self.count(context)
                    self.sweep()
                    return context
            elif tid == -_EINTR or (tid == 0 and options & ptrace.WNOHANG and not self._inbox and not self._woken):
                return None
            elif tid < 0:
                raise PlatformError(f"waiting for stub threads: errno {-tid}")
