"""Costs are read rightly from the text of a program, and programs compile where libtpu is."""

import importlib.util
import re

import pytest

from benchmarks import hlo_cost, tpu
from benchmarks.tpu import estimate
from internal_rl.errors import ConfigError

# Cut down to what is read, in short: `@` an estimate, `#` a trip count, `<>` a name, `%counted` and
# `%open` condition and body of a loop.
TEXT = """HloModule jit_f, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} add(%p, %p), @1000
}

%counted_condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%counted_body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} fusion(%c), kind=kLoop, calls=%fused, @7, <jit(f)/mul>
  %sum = f32[8,4]{1,0} all-reduce(%x), to_apply=%fused, <jit(f)/psum>
  ROOT %t = (s32[], f32[8]) tuple(%c, %x)
}

%open_condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]) parameter(0)
  ROOT %goes_on = pred[] fusion(%c), kind=kLoop, calls=%fused, @1
}

%named_body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]) parameter(0)
  ROOT %w = (s32[], f32[8]) while(%c), %counted, #3
}

%cheap (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %a = f32[8]{0} add(%p, %p), @20
}

%dear (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %a = f32[8]{0} add(%p, %p), @30
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %first = (s32[], f32[8]) while(%p), %counted, <jit(f)/while>
  %second = (s32[], f32[8]) while(%first), %open, <jit(f)/episode_steps/vmap(flood)/while>
  %third = (s32[], f32[8]) while(%first), %open, <jit(f)/episode_steps/while/body/x/while>
  %started = (bf16[16]{0}, bf16[32]{0}) all-gather-start(%p), dimensions={0}
  ROOT %c = f32[8]{0} conditional(%p), branch_computations={%cheap, %dear}
}
"""


CONDITION_AND_BODY = {
    "counted": "condition=%counted_condition, body=%counted_body",
    "open": "condition=%open_condition, body=%named_body",
}


def text():
    lines = []
    for line in TEXT.splitlines():
        head, sign, rest = line.partition("@")
        if sign:
            number, _, more = rest.partition(",")
            line = f'{head}backend_config={{"estimated_cycles":"{number}"}}'
            line += f",{more}" if more else ""
        line = re.sub(r"#(\d+)", r'backend_config={"known_trip_count":{"n":"\1"}}', line)
        line = re.sub(r"<(.*)>", r'metadata={op_name="\1"}', line)
        line = re.sub(r"%counted(?=[,\s]|$)", CONDITION_AND_BODY["counted"], line)
        line = re.sub(r"%open(?=[,\s]|$)", CONDITION_AND_BODY["open"], line)
        lines.append(line)
    return "\n".join(lines)


def test_loops_count_as_often_as_they_run():
    cost = hlo_cost.Program(text(), {"flood": 10, "episode_steps": 1000}, other_trips=2).cost()
    first = 5 * 7
    second = 10 * (3 * 7 + 1)
    third = 2 * (3 * 7 + 1)
    assert cost.cycles == first + second + third + 30
    assert cost.assumed == {"flood": 10, "jit(f)/episode_steps/while/body/x/while": 2}
    count = 5 + 10 * 3 + 2 * 3
    assert cost.collectives["all-reduce"] == (count, count * 8 * 4 * 4)
    # Of what a started collective holds, operands and results, the half.
    assert cost.collectives["all-gather"] == (1, 48)
    assert cost.parts["jit(f)/mul"] == count * 7


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="entry computation"):
        hlo_cost.Program("nothing", {})


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,4]{1,0:T(8,128)}", 128),
        ("(bf16[3], s32[], pred[5])", 15),
        ("u8[2,2]", 4),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(shape, size):
    assert hlo_cost.bytes_of(shape) == size


def test_bundles_of_a_kernel_count_as_often_as_their_loops_run(tmp_path):
    end = "%p1 = scmp.ge.s32.totalorder %s1, {} /* loop exit test */"
    listing = [
        "LB: loop body",
        "     0   :  { %1 = vsyncpa }",
        "   0x1 LB: > { %2 = sadd.s32 1 }",
        "   0x2   :  {}",
        "   0x3 LB: >> { %3 = vadd }",
        f"   0x4   : > {{ {end.format(64)} }}",
        "   0x5   : >> { %5 = vadd }",
        f"   0x6   : > {{ {end.format(10)} }}",
        "   0x7   :  { %7 = vsyncadd }",
    ]
    listing.append("   0x8   :  {} /* exit bundle: %my_kernel.3 = custom-call(%x) */")
    (tmp_path / "12-my_kernel.3-76-final_bundles.txt").write_text("\n".join(listing))
    # A copy of what the kernel gives has its name.
    (tmp_path / "14-my_kernel.9-76-final_bundles.txt").write_text("   0x1   :  {}\n" * 9999)
    (tmp_path / "13-my_kernel.3-75-schedule-analysis_final_bundles.txt").write_text("nothing")
    assert hlo_cost.kernel_cycles(tmp_path) == {"my_kernel": 3 + 10 * (3 + 64 * 3)}


@pytest.mark.parametrize("topology", ["v5e", "h100:1", "2x4"])
def test_an_unknown_topology_is_named(topology):
    with pytest.raises(ConfigError, match=r"--topology: .*v5e:2x4"):
        estimate(topology, [])


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs libtpu.*internal_rl\[tpu\]"):
        estimate("v5e:1x1", [])


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_small_program_compiles_for_eight_chips():
    found = estimate("v5e:2x4", [("gridworld", "probe")], preset="smoke", parts=2)
    result = found["gridworld"]["probe"]
    assert "error" not in result, result["error"]
    assert result["cycles"] > 0
    assert 0 < result["share_of_peak"] < 1
    assert result["memory_bytes"] > 0
    assert "gridworld" in tpu.row("gridworld", "probe", result, "v5e")
