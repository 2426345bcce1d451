import numpy as np

from pretokenizer.figures.lengths import LengthReport, SeqLength, histogram, length_report, text_histogram


def test_histogram() -> None:
    assert histogram(np.array([3, 15, 16, 40])) == ([0, 16, 32, 64], [2, 1, 1])
    assert histogram(np.array([], dtype=np.int64)) == ([0, 16], [0])


def test_length_report() -> None:
    report = length_report(np.array([600, 500, 3000]))
    assert report.bounds == [0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert report.counts == [0, 0, 0, 0, 0, 1, 1, 0, 1]
    assert report.seq_lengths == [
        SeqLength(512, 2, 88 + 2488, 3, (512 + 500 + 512) / 1536),
        SeqLength(1024, 1, 1976, 3, (600 + 500 + 1024) / 3072),
        SeqLength(2048, 1, 952, 2, (2048 + 1100) / 4096),
        SeqLength(4096, 0, 0, 2, 4100 / 8192),
        SeqLength(8192, 0, 0, 1, 4100 / 8192),
        SeqLength(16384, 0, 0, 1, 4100 / 16384),
        SeqLength(32768, 0, 0, 1, 4100 / 32768),
    ]
    assert report.iterations_per_epoch[16] == {
        "documents": 3 / 16,
        "packed_512": 3 / 16,
        "packed_1024": 3 / 16,
        "packed_2048": 2 / 16,
        "packed_4096": 2 / 16,
        "packed_8192": 1 / 16,
        "packed_16384": 1 / 16,
        "packed_32768": 1 / 16,
    }
    assert length_report(np.empty(0, dtype=np.int64)) == LengthReport([], [], [], {})


def test_documents_without_tokens_take_no_row() -> None:
    assert length_report(np.array([0, 0])).seq_lengths[0] == SeqLength(512, 0, 0, 0, 0.0)


def test_text_histogram_leaves_out_empty_ends() -> None:
    assert text_histogram([0, 16, 32, 64, 128], [0, 100, 0, 1]) == [
        "     16 -      31 | " + "#" * 50 + " 100",
        "     32 -      63 |  0",
        "     64 -     127 | # 1",
    ]
    assert text_histogram([0, 16], [0]) == []
