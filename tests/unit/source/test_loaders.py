from __future__ import annotations

import pytest

from llamabuild.source import loader_symbols, loaders, releases

CLASSIC = {
    "0.6.2": (),
    "0.8.1": (
        "ggml_backend_cuda_register_host_buffer",
        "ggml_backend_cuda_get_device_description",
    ),
    "0.8.6": (
        "ggml_backend_cuda_get_device_description",
        "ggml_backend_cuda_log_set_callback",
    ),
    "0.8.17": ("ggml_backend_cuda_log_set_callback", "ggml_abort"),
    "0.9.3": ("ggml_backend_cuda_log_set_callback", "ggml_abort"),
}
MODERN = (
    "ggml_backend_cuda_init",
    "ggml_backend_cuda_reg",
    "ggml_backend_cuda_get_device_count",
)


def module_of(release: str) -> set[str]:
    """What a module of that release's sources exports."""
    return {*loader_symbols(release), *CLASSIC[release]}


@pytest.mark.parametrize(
    ("release", "ranges"),
    [
        ("0.6.2", [("0.6.2", "0.6.2")]),
        # Of the same functions, but four data layouts: the module does not say which is its own.
        ("0.8.1", [("0.7", "0.7"), ("0.7.1", "0.7.4"), ("0.8", "0.8.1"), ("0.8.2", "0.8.4")]),
        ("0.8.6", [("0.8.5", "0.8.6"), ("0.8.7", "0.8.12")]),
        ("0.8.17", [("0.8.13", "0.9.1")]),
        ("0.9.3", [("0.8.13", "0.9.3")]),
    ],
)
def test_a_classic_module_is_for_releases_of_its_functions_and_layout(release, ranges):
    assert list(loaders(module_of(release))) == ranges


@pytest.mark.parametrize("release", CLASSIC)
def test_without_a_function_that_a_release_looks_up_that_release_is_out(release):
    module = module_of(release)
    for name in loader_symbols(release):
        found = loaders(module - {name})
        assert not any(
            releases().index(first) <= releases().index(release) <= releases().index(last)
            for first, last in found
            if last
        ), name


def test_a_self_contained_module_is_for_0_10_and_later():
    assert loaders(MODERN) == (("0.10", ""),)
    assert loaders(MODERN[1:]) == ()
    assert loaders(()) == ()


def test_functions_of_two_ages_fit_no_release():
    assert loaders({*module_of("0.8.1"), "ggml_backend_cuda_get_device_properties"}) == ()
