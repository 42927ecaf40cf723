"""Growing files arrive on a store whole, now and then and at the end."""

from internal_rl import growing
from internal_rl.growing import GrowingFolder
from internal_rl.paths import as_path
from tests.stores import store


def test_on_this_machine_the_folder_is_the_folder(tmp_path):
    folder = GrowingFolder(tmp_path)
    folder.fetch("lines")
    assert folder.local == tmp_path
    (folder.local / "lines").write_text("one\n")
    folder.grown()
    folder.upload()
    folder.close()
    assert (tmp_path / "lines").read_text() == "one\n"


def test_a_store_gets_what_has_grown_when_it_is_due(monkeypatch):
    with store(monkeypatch, "gs") as objects:
        objects["gs://bucket/run/lines"] = b"old\n"
        folder = GrowingFolder(as_path("gs://bucket/run"))
        folder.fetch("lines")
        folder.fetch("nothing")
        with open(folder.local / "lines", "a") as file:
            file.write("new\n")
        folder.grown()
        assert objects["gs://bucket/run/lines"] == b"old\n"
        monkeypatch.setattr(growing, "UPLOAD_SECONDS", -1)
        folder.grown()
        assert objects["gs://bucket/run/lines"] == b"old\nnew\n"
        objects.writes.clear()
        folder.grown()
        assert not objects.writes
        (folder.local / "other").write_text("more")
        folder.close()
        assert objects.writes == ["gs://bucket/run/other"]
        assert not folder.local.exists()
        folder.close()
