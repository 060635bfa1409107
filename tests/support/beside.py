"""prepctl at work beside trainings while everything is killed, and what must be true of the cache whatever happened.

TMPDIR is an empty folder of one's own. Two lanes: one adds and removes data sets that share pictures, the other verifies, collects garbage and reads batches. What
prepctl acknowledged is remembered; settled() holds the cache against that memory and against a daemon that nothing happened to.
"""
import collections
import os
import re
import signal
import subprocess
import time

from harness import BIN, Daemon, SmallData, environment

SIZE, PICTURES, APART, VAL = 128, 90, 50, 6
REST_S = 0.2  # between two prepctl at most
BUSY = "; wait for it"
FILES = {"data.mdb", "lock.mdb", "daemon.lock"}  # schemas/cache.md


class Fault(Exception):
    """What must not happen."""


class Added:
    """A data set, what a daemon in peace says of it, and what of it was acknowledged: it is there, gone, or one cannot know (maybe)."""

    def __init__(self, name, data, size):
        self.name, self.state = name, "gone"
        self.leaving = False  # a killed add of it may still be at work
        self.add = [*data.arguments(name), "--size", size]
        self.read = [name, "--split", "all", "--size", size, "--batch-size", 16]

    def learn(self, daemon):
        daemon.prepctl_ok("add", *self.add)
        self.version, self.digests = self.version_on(daemon), self.digests_on(daemon)

    def version_on(self, daemon):
        return re.search(r"^  version +([0-9a-f]{64})$", daemon.prepctl_ok("show", self.name).stdout, re.M).group(1)

    def digests_on(self, daemon):
        return daemon.prepctl_ok("digests", *self.read).stdout


class Lane:
    """One prepctl after the other."""

    def __init__(self, verbs):
        self.verbs, self.process, self.verb, self.what, self.disturbed = verbs, None, None, None, False
        self.rests_until = 0.0

    def start(self, daemon, verb, what):
        words = {"add": what.add, "rm": [what.name], "digests": what.read}[verb] if what else []
        self.verb, self.what, self.disturbed = verb, what, False
        self.process = subprocess.Popen([str(BIN / "prepctl"), verb, *map(str, words), *map(str, daemon.at())], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    def alive(self):
        return self.process is not None and self.process.poll() is None


class Beside:
    def __init__(self, folder, daemon, small, draw, sets=4):
        self.daemon, self.draw, self.sockets = daemon, draw, 0
        self.small = Added("small", small, 64)
        self.small.state = "there"
        self.sets = [Added(f"set-{i}", SmallData(folder / f"set-{i}", PICTURES, VAL, first=1000 + i * APART), SIZE) for i in range(sets)]
        with Daemon(folder=folder / "in-peace") as peace:
            for each in (self.small, *self.sets):
                each.learn(peace)
            self.records_of_nothing = self.empty(peace)
        self.lanes = Lane(("add", "add", "rm")), Lane(("verify", "gc", "gc", "digests"))
        self.done, self.killed, self.cut = collections.Counter(), collections.Counter(), collections.Counter()
        self.within = collections.defaultdict(lambda: 0.03)  # seconds, by verb: how long after its start a blow finds it alive

    # ---- the lanes ----

    def next(self, lane):
        verb = self.draw.choice(lane.verbs)
        others = [other.what for other in self.lanes if other is not lane and other.alive()]
        there = [each for each in self.sets if each.state == "there" and each not in others]
        if verb == "digests":
            return verb, self.draw.choice([*there, self.small])
        if verb == "rm" and there:
            return verb, self.draw.choice(there)
        if verb in ("add", "rm"):
            return "add", self.draw.choice([each for each in self.sets if each not in others])
        return verb, None

    def step(self, at_once=None):
        """Called often: takes what a prepctl that ended has said, and starts the next one, at_once on that lane."""
        for lane in self.lanes:
            if lane.alive():
                continue
            if lane.process is not None:
                self.ended(lane)
                lane.rests_until = time.monotonic() + self.draw.uniform(0, REST_S)
            if lane is at_once or time.monotonic() >= lane.rests_until:
                lane.start(self.daemon, *self.next(lane))

    def ended(self, lane):
        out, err = lane.process.communicate()
        code, verb, what, lane.process = lane.process.returncode, lane.verb, lane.what, None
        if re.search(r"[1-9]\d* damaged", out):
            raise Fault(f"prepctl verify: {out}")
        if code == 0:
            self.done[verb] += 1
            if verb == "add":
                if what.version[:12] not in out:
                    raise Fault(f"{what.name} came out as another: {out} in place of {what.version}")
                what.state = "there"
            elif verb == "rm":
                what.state = "maybe" if what.leaving else "gone"
            elif verb == "digests" and out != what.digests:
                raise Fault(f"batches of {what.name} are others:\n{out}\nin place of\n{what.digests}")
        elif lane.disturbed and (verb != "digests" or (not out and "no preprocessd at" in err)):
            self.unknown(verb, what)  # a reader connects again, but one typed while there is no daemon does not wait for it
        elif BUSY not in err:
            raise Fault(f"prepctl {verb} {what.name if what else ''}: exit code {code}: {out}{err}")

    @staticmethod
    def unknown(verb, what):
        """It may have been done, or not."""
        if (verb == "add" and what.state == "gone") or verb == "rm":
            what.state = "maybe"

    def disturb(self):
        """The daemon was hit: what asks it something may fail."""
        for lane in self.lanes:
            lane.disturbed = True
        for each in self.sets:
            each.leaving = False

    def aim(self):
        """Waits for a moment within what one lane does next."""
        lane = self.draw.choice((self.lanes[0], *self.lanes))
        while lane.alive():
            time.sleep(0.002)
        self.step(at_once=lane)
        time.sleep(self.draw.uniform(0, self.within[lane.verb]))
        self.within[lane.verb] *= 1.2 if lane.alive() else 0.7

    def kill(self):
        """SIGKILL to the prepctl at work; how many there were."""
        found = 0
        for lane in self.lanes:
            if not lane.alive():
                continue
            lane.process.kill()
            if lane.process.wait() != -signal.SIGKILL:
                self.ended(lane)  # it was faster
                continue
            lane.process.communicate()
            lane.process = None
            self.unknown(lane.verb, lane.what)
            if lane.verb == "add":
                lane.what.leaving = True
            self.killed[lane.verb] += 1
            found += 1
        return found

    # ---- what must be true ----

    def quiet(self):
        """Lets the lanes come to their end, and what killed clients asked for."""
        for lane in self.lanes:
            if lane.process is not None:
                lane.process.wait()
                self.ended(lane)
        until = time.monotonic() + 20
        while any(client["doing"].startswith(("add ", "gc", "verify")) for client in self.daemon.status()["clients"]):
            if time.monotonic() > until:
                raise Fault(f"still at work: {self.daemon.status()['clients']}")
            time.sleep(0.01)
        for each in self.sets:
            each.leaving = False

    def made(self):
        status = self.daemon.status()
        return status["decoded"], status["tokenized"], status["remade"]

    def settled(self):
        """What was acknowledged is there, whole, and nothing of it has to be made again; nothing is wrong; nothing is left."""
        self.quiet()
        listed = {line.split()[0] for line in self.daemon.prepctl_ok("datasets").stdout.splitlines()[1:]} & \
                 {each.name for each in (self.small, *self.sets)}
        before = self.made()
        for each in (self.small, *self.sets):
            if each.state == "maybe":
                each.state = "there" if each.name in listed else "gone"
                self.cut[each.state] += 1
            if (each.state == "there") != (each.name in listed):
                raise Fault(f"{each.name} was acknowledged as {each.state}, and these are listed: {sorted(listed)}")
            if each.state == "there":
                self.whole(each, before)
        verified = self.daemon.prepctl("verify")
        if verified.returncode != 0 or " 0 damaged" not in verified.stdout:
            raise Fault(f"prepctl verify: {verified.stdout}{verified.stderr}")
        self.nothing_left()

    def whole(self, added, before):
        version = added.version_on(self.daemon)
        if version != added.version:
            raise Fault(f"{added.name} is another: {version} in place of {added.version}")
        if added.digests_on(self.daemon) != added.digests:
            raise Fault(f"batches of {added.name} are others")
        if self.made() != before:
            raise Fault(f"records of {added.name} were lost: pictures, captions made, made again: {before}, then {self.made()}")

    def nothing_left(self):
        """Of clients that were killed: no memory, no connection, no file."""
        until = time.monotonic() + 5
        while True:
            found = self.left()
            if not found:
                return
            if time.monotonic() > until:
                raise Fault(f"left behind: {found}")
            time.sleep(0.02)

    def left(self):
        process = f"/proc/{self.daemon.process.pid}"
        with open(f"{process}/maps", encoding="utf-8") as file:
            found = [line.strip() for line in file if "memfd:" in line]
        sockets, batches = 0, []
        for fd in os.listdir(f"{process}/fd"):
            try:
                target = os.readlink(f"{process}/fd/{fd}")
            except FileNotFoundError:
                continue
            sockets += target.startswith("socket:")
            if "memfd:" in target:
                batches.append(target)
        found += batches[1:]  # one the daemon keeps for the next stream (preprocessd/pipeline/reserve.h)
        if sockets > self.sockets:
            found.append(f"{sockets} sockets in place of {self.sockets}")
        found += [f"{os.environ['TMPDIR']}/{name}" for name in os.listdir(os.environ["TMPDIR"])]
        found += [name for name in os.listdir(self.daemon.cache) if name not in FILES]
        return found

    def begin(self):
        """When the daemon is there and nobody else."""
        names = os.listdir(f"/proc/{self.daemon.process.pid}/fd")
        self.sockets = sum(os.readlink(f"/proc/{self.daemon.process.pid}/fd/{fd}").startswith("socket:") for fd in names)

    def empty(self, daemon):
        """Removes every data set; how many records are left then."""
        for each in (self.small, *self.sets):
            daemon.prepctl("rm", each.name)
        daemon.prepctl_ok("gc")
        return daemon.status()["cache_records"]

    def end(self):
        """The cache is empty when its data sets are removed, and a daemon that is asked to end leaves nothing but it."""
        self.settled()
        records = self.empty(self.daemon)
        if records != self.records_of_nothing:
            raise Fault(f"{records} records are left when all data sets are gone, in place of {self.records_of_nothing}")
        if self.daemon.stop() != 0:
            raise Fault(f"the daemon did not end well; see {self.daemon.log}")
        found = [name for name in ("d.sock", "d.sock.lock") if (self.daemon.folder / name).exists()]
        found += sorted(set(os.listdir(self.daemon.cache)) - FILES)
        if found:
            raise Fault(f"left behind: {found}")
