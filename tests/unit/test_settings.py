from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.errors import UsageError
from llamabuild.settings import COMMANDS, OPTIONS, Option, Options, Request, resolve

BY_NAME = {option.name: option for option in OPTIONS}


def refused(given: dict[str, Any], environ: dict[str, str] | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(given, environ or {})
    return caught.value


#: A field's type follows from its option's kind.
TYPES = {
    "text": (str, str | None),
    "number": (int, int | None),
    "list": (tuple[str, ...],),
    "flag": (bool,),
    "switch": (bool, bool | None),
    "count": (int,),
}


class TestDeclarations:
    """What the table promises to its readers."""

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
    def test_each_is_whole(self, option: Option) -> None:
        hint = get_type_hints(Request)[option.name]
        assert hint in TYPES[option.kind]
        assert (option.default is None) == (type(None) in getattr(hint, "__args__", ()))
        assert option.commands
        assert option.commands <= COMMANDS.keys()
        assert not option.help[0].isupper()
        assert not option.help.endswith(".")
        assert not option.choices or option.default in {None, *option.choices}

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
    def test_what_a_variable_sets_the_command_line_can_unset(self, option: Option) -> None:
        assert not option.variables or option.kind != "flag"

    def test_spellings_differ(self) -> None:
        spellings = [word for option in OPTIONS for word in (option.flag, option.letter) if word]
        spellings += [f"--no-{option.flag[2:]}" for option in OPTIONS if option.kind == "switch"]
        assert len(spellings) == len(set(spellings))

    @pytest.mark.parametrize(
        ("name", "flag", "letter"),
        [
            ("force_mmq", "--force-mmq", ""),
            ("defines", "--define", "-D"),
            ("nvcc_flags", "--nvcc-flag", ""),
            ("jobs", "--jobs", "-j"),
            ("output", "--output", "-o"),
            ("verbose", "--verbose", "-v"),
            ("quiet", "--quiet", "-q"),
        ],
    )
    def test_spellings_are_as_documented(self, name: str, flag: str, letter: str) -> None:
        assert (BY_NAME[name].flag, BY_NAME[name].letter) == (flag, letter)

    def test_the_python_api_has_the_same_names(self) -> None:
        """What a build understands, beside arguments of their own and what is for shells only."""
        build = {option.name for option in OPTIONS if "build" in option.commands}
        elsewhere = {"arch", "source", "dry_run", "json", "verbose", "quiet"}
        assert get_type_hints(Options).keys() == build - elsewhere


#: Option -> the variables that set it, the strongest first, as the documentation lists them.
VARIABLES = {
    "backend": ("LLAMABUILD_BACKEND",),
    "arch": ("LLAMABUILD_ARCH", "CUDAARCHS", "TORCH_CUDA_ARCH_LIST"),
    "source": ("LLAMABUILD_SOURCE",),
    "toolkit": ("LLAMABUILD_TOOLKIT",),
    "source_mirror": ("LLAMABUILD_SOURCE_MIRROR",),
    "host_compiler": ("LLAMABUILD_HOST_COMPILER",),
    "jobs": ("MAX_JOBS", "CMAKE_BUILD_PARALLEL_LEVEL"),
    "cache_dir": ("LLAMABUILD_CACHE_DIR",),
    "backup_dir": ("LLAMABUILD_BACKUP_DIR",),
    "force_mmq": ("LLAMABUILD_FORCE_MMQ",),
}

#: For each kind, a value given, and texts of variables with what they mean.
SAMPLES: dict[str, tuple[Any, list[tuple[str, Any]]]] = {
    "text": ("given", [("one", "one"), ("two", "two"), ("three", "three")]),
    "number": (1, [("2", 2), ("3", 3)]),
    "switch": (False, [("1", True)]),
}


class TestPrecedence:
    def test_the_variables_are_these(self) -> None:
        assert {
            option.name: option.variables for option in OPTIONS if option.variables
        } == VARIABLES

    @pytest.mark.parametrize("name", VARIABLES)
    def test_the_flag_before_the_variables_in_order_before_the_default(self, name: str) -> None:
        option = BY_NAME[name]
        value, samples = SAMPLES[option.kind]
        if option.choices:
            value, samples = option.choices[0], [(text, text) for text in option.choices[1:]]
        pairs = list(zip(option.variables, samples, strict=False))
        environ = {variable: text for variable, (text, _) in pairs}

        (command, *_) = option.commands
        request = resolve({name: value}, environ, command)
        assert (getattr(request, name), request.origin(name)) == (value, option.flag)
        for variable, (_, meaning) in pairs:
            request = resolve({}, environ, command)
            assert (getattr(request, name), request.origin(name)) == (meaning, variable)
            del environ[variable]
        request = resolve({}, environ, command)
        assert (getattr(request, name), request.origin(name)) == (option.default, "default")

    def test_with_hip_other_variables_name_the_architectures(self) -> None:
        environ = {"CUDAARCHS": "89", "TORCH_CUDA_ARCH_LIST": "8.9", "PYTORCH_ROCM_ARCH": "gfx906"}
        hip = resolve({"backend": "hip"}, environ)
        assert (hip.arch, hip.origin("arch")) == ("gfx906", "PYTORCH_ROCM_ARCH")
        for environ["LLAMABUILD_BACKEND"] in ("hip", "cuda"):
            expected = {"hip": "gfx906", "cuda": "89"}[environ["LLAMABUILD_BACKEND"]]
            assert resolve({}, environ).arch == expected
        del environ["PYTORCH_ROCM_ARCH"]
        assert resolve({"backend": "hip"}, environ).arch == "native"
        environ["LLAMABUILD_ARCH"] = "gfx1030"
        assert resolve({"backend": "hip"}, environ).arch == "gfx1030"

    def test_everything_has_a_default(self) -> None:
        request = resolve({}, {})
        assert request == Request()
        assert {request.origin(option.name) for option in OPTIONS} == {"default"}
        assert request.arch == "native"

    @pytest.mark.parametrize("blank", ["", " ", "\n"])
    def test_a_blank_variable_is_not_set(self, blank: str) -> None:
        request = resolve({}, {"LLAMABUILD_ARCH": blank, "CUDAARCHS": "61", "MAX_JOBS": blank})
        assert (request.arch, request.origin("arch")) == ("61", "CUDAARCHS")
        assert request.jobs is None

    @pytest.mark.parametrize("name", ["arch", "source", "toolkit", "nvcc_flags", "for_gpus"])
    @pytest.mark.parametrize("blank", ["", " "])
    def test_a_blank_flag_is_refused(self, name: str, blank: str) -> None:
        """``--toolkit "$UNSET"`` is a mistake to be told of: nothing was meant to be left open."""
        value = [blank] if BY_NAME[name].kind == "list" else blank
        error = refused({name: value}, {"CUDAARCHS": "61"})
        assert error.message == f"{BY_NAME[name].flag}: {value!r} is no text that means anything"

    def test_a_variable_is_stripped(self) -> None:
        assert resolve({}, {"CUDAARCHS": " 61;75\n"}).arch == "61;75"

    def test_none_is_not_said(self) -> None:
        assert resolve({"arch": None, "fast_math": None}, {"CUDAARCHS": "61"}).arch == "61"

    def test_variables_that_are_not_listed_mean_nothing(self) -> None:
        environ = {f"LLAMABUILD_{name.upper()}": "1" for name in BY_NAME if name not in VARIABLES}
        assert resolve({}, environ) == Request()

    def test_where_a_value_came_from_does_not_make_requests_differ(self) -> None:
        assert resolve({"arch": "61"}, {}) == resolve({}, {"CUDAARCHS": "61"})


class TestKinds:
    @pytest.mark.parametrize(
        ("text", "meaning"),
        [
            *(("1", True), ("ON", True), ("true", True), ("Yes", True)),
            *(("0", False), ("off", False), ("False", False), ("NO", False)),
        ],
    )
    def test_switches_in_the_environment(self, text: str, *, meaning: bool) -> None:
        assert resolve({}, {"LLAMABUILD_FORCE_MMQ": text}).force_mmq is meaning

    def test_a_switch_on_the_command_line_can_say_no(self) -> None:
        environ = {"LLAMABUILD_FORCE_MMQ": "1"}
        assert resolve({"force_mmq": False}, environ).force_mmq is False
        assert resolve({"fast_math": False}, {}).fast_math is False

    @pytest.mark.parametrize("value", [["A", "B=1"], ("A", "B=1")])
    def test_lists(self, value: Any) -> None:
        assert resolve({"defines": value}, {}).defines == ("A", "B=1")

    def test_one_text_is_a_list_of_one(self) -> None:
        assert resolve({"nvcc_flags": "-lineinfo"}, {}).nvcc_flags == ("-lineinfo",)

    @pytest.mark.parametrize("value", [90, "90"])
    def test_a_number_for_a_text(self, value: Any) -> None:
        assert resolve({"arch": value}, {}).arch == "90"

    def test_a_path_for_a_text(self) -> None:
        assert resolve({"source": Path("/a b/x.llamafile")}, {}).source == "/a b/x.llamafile"

    @pytest.mark.parametrize("value", [3, "3"])
    def test_whole_numbers(self, value: Any) -> None:
        assert resolve({"jobs": value}, {}).jobs == 3

    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("arch", ["61", "75"], "not text"),
            ("arch", 8.9, "not text"),  # 12.10 would lose its zero
            ("source", True, "not text"),
            ("source", b"x", "not text"),
            ("blas", "mkl", "not one of tiny, cublas"),
            ("blas", "Tiny", "not one of tiny, cublas"),
            ("blas", "", "not one of tiny, cublas"),
            ("fa", "on", "not one of off, default, all"),
            ("defines", {"A": "1"}, "not a list of texts"),
            ("defines", 5, "not a list of texts"),
            ("defines", ["A", 5], "not a list of texts"),
            ("jobs", "many", "not a whole number of at least 1"),
            ("jobs", "", "not a whole number of at least 1"),
            ("jobs", 0, "not a whole number of at least 1"),
            ("jobs", -1, "not a whole number of at least 1"),
            ("jobs", 99999999999, "too large"),
            ("jobs", "9" * 5000, "too large"),
            ("toolkit", "a\0b", "no text that means anything"),
            ("jobs", 1.5, "not a whole number of at least 1"),
            ("jobs", True, "not a whole number of at least 1"),
            ("verbose", -1, "not a whole number of at least 0"),
            ("verbose", "x", "not a whole number of at least 0"),
            ("force_mmq", "maybe", "neither on nor off"),
            ("fast_math", [], "neither on nor off"),
        ],
    )
    def test_what_is_refused(self, name: str, value: Any, says: str) -> None:
        error = refused({name: value})
        assert error.message == f"{BY_NAME[name].flag}: {value!r} is {says}"
        assert error.hint.startswith(BY_NAME[name].flag)

    @pytest.mark.parametrize("text", ["A", "_a1=", "A=x y", 'A="x"', "F(x)=x", "A=b=c;d"])
    def test_definitions(self, text: str) -> None:
        assert resolve({"defines": [text]}, {}).defines == (text,)

    @pytest.mark.parametrize("text", ["1x", "A B", "A;B", "=1", "A=1\n#error", "-A", "Ä=1", "F(=1"])
    def test_no_definitions(self, text: str) -> None:
        error = refused({"defines": ["GOOD", text]})
        assert error.message == f"--define: {text!r} is no definition"

    def test_a_bad_variable_is_named(self) -> None:
        assert refused({}, {"MAX_JOBS": "x"}).message.startswith("MAX_JOBS: 'x'")
        assert refused({}, {"LLAMABUILD_FORCE_MMQ": "x"}).message.startswith("LLAMABUILD_FORCE_MMQ")

    def test_a_bad_variable_that_is_overruled_does_no_harm(self) -> None:
        assert resolve({"jobs": 2}, {"MAX_JOBS": "x"}).jobs == 2
        assert resolve({}, {"MAX_JOBS": "x"}, "detect").jobs is None  # which starts no compiler

    def test_the_hint_can_be_typed(self) -> None:
        assert refused({"blas": "mkl"}).hint == "--blas tiny|cublas"
        assert refused({"jobs": "x"}).hint == "--jobs 2"
        assert refused({"defines": 5}).hint == "--define NAME[=VALUE]"


class TestRefused:
    def test_an_unknown_name_is_answered_with_near_ones(self) -> None:
        error = refused({"force_mmg": True})
        assert "'force_mmg'" in error.message
        assert "force_mmq" in error.hint.split(", ")

    def test_a_name_like_no_other_is_answered_with_all(self) -> None:
        assert refused({"zzz": 1}).hint.split(", ") == list(BY_NAME)

    @pytest.mark.parametrize(
        ("given", "environ", "message"),
        [
            (
                {"force_mmq": True, "force_cublas": True},
                {},
                "--force-mmq and --force-cublas contradict each other",
            ),
            (
                {"force_cublas": True},
                {"LLAMABUILD_FORCE_MMQ": "1"},
                "LLAMABUILD_FORCE_MMQ and --force-cublas contradict each other",
            ),
            (
                {"force_cublas": True, "blas": "tiny"},
                {},
                "--force-cublas needs cuBLAS, and --blas tiny leaves it out",
            ),
            ({"quiet": True, "verbose": 1}, {}, "--quiet and --verbose contradict each other"),
        ],
    )
    def test_contradictions(
        self, given: dict[str, Any], environ: dict[str, str], message: str
    ) -> None:
        assert refused(given, environ).message == message

    @pytest.mark.parametrize(
        ("given", "environ"),
        [
            ({"force_mmq": True, "blas": "cublas"}, {}),
            ({"force_cublas": True, "blas": "cublas"}, {}),
            ({"force_cublas": True, "force_mmq": False}, {"LLAMABUILD_FORCE_MMQ": "1"}),
            ({"quiet": True, "verbose": 0}, {}),
        ],
    )
    def test_no_contradictions(self, given: dict[str, Any], environ: dict[str, str]) -> None:
        resolve(given, environ)


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(BY_NAME)), anything))
def test_any_value_makes_a_request_or_a_usage_error(given: dict[str, Any]) -> None:
    try:
        request = resolve(given, {})
    except UsageError as error:
        assert error.hint  # noqa: PT017
        return
    for option in OPTIONS:
        value = getattr(request, option.name)
        said = given.get(option.name) is not None
        assert request.origin(option.name) == (option.flag if said else "default")
        assert not option.choices or value in {option.default, *option.choices}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([name for names in VARIABLES.values() for name in names]), st.text()
    )
)
def test_any_environment_makes_a_request_or_a_usage_error(environ: dict[str, str]) -> None:
    try:
        request = resolve({}, environ)
    except UsageError as error:
        assert error.message.split(":")[0] in environ  # noqa: PT017
        return
    for name, variables in VARIABLES.items():
        heeded = variables if "build" in BY_NAME[name].commands else ()
        first = next((name for name in heeded if environ.get(name, "").strip()), "default")
        assert request.origin(name) == first
