"""A small valid manifest of every kind, as files of a folder: what fuzzing begins with."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

Files = Mapping[str, bytes]
_TURNS = [
    {"text": "hello", "start": 0.5, "end": 1.0, "role": "a"},
    {"text": "yes", "start": 1, "end": 2, "role": "b"},
]
_ROWS: list[dict[str, object]] = [
    {
        "doc_id": "a",
        "audio": "a.wav",
        "text": "hello you",
        "group": "g1",
        "labels": {"mood": "low"},
        "attributes": {"age": 34},
    },
    {
        "doc_id": "b",
        "text": _TURNS,
        "group": 7,
        "split": "train",
        "labels": {"mood": "high", "score": 2.5},
        "site": "x",
    },
    {"doc_id": "c", "audio": "/x/c.wav", "text_file": "c.vtt", "channels": "left", "labels": {"mood": None}},
    {"doc_id": "d", "audio": "d.wav", "channels": {"0": "agent", "1": "customer"}, "split": "test"},
]


def _lines(*rows: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


_CSV = """\
doc_id,audio,text,group,labels.mood,age,split
a,a.wav,"hello, ""you""\",g1,low,34,train
b,,"[{'text': 'hi', 'start': 0.5, 'end': 1.0}]",g2,high,NA,test
c,/x/c.wav,,g3,,007,
"""
_TABLE = pa.table(
    {
        "doc_id": ["a", "b"],
        "audio": ["a.wav", None],
        "text": [None, "hello you"],
        "group": ["g1", "g2"],
        "labels.mood": ["low", None],
        "age": [34, 51],
        "born": pa.array([1, 2], pa.date32()),
        "attributes": [{"x": 1.5}, {"x": 2.5}],
    }
)
_TURN_TABLE = pa.table(
    {"doc_id": ["a"], "text": [[{"text": "hi", "start": 0.5, "end": 1.0}]], "labels.m": [1]}
)


def _written(table: pa.Table, kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, sink, compression="uncompressed")
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


_RECORDING = {
    "id": "r1",
    "sources": [{"type": "file", "channels": [0], "source": "r1.flac"}],
    "sampling_rate": 16000,
    "num_samples": 160000,
    "duration": 10.0,
    "channel_ids": [0],
}
_SUPERVISION = {
    "id": "s",
    "recording_id": "r1",
    "start": 0.5,
    "duration": 1.5,
    "channel": 0,
    "text": "hello",
    "language": "en",
    "speaker": "ann",
    "gender": "F",
    "custom": {"mood": "low"},
}
_CUT = {
    "id": "r1-0",
    "start": 1.0,
    "duration": 7.0,
    "channel": 0,
    "type": "MonoCut",
    "recording": _RECORDING,
    "supervisions": [_SUPERVISION],
    "custom": {"site": "A"},
}
_KALDI = {
    "wav.scp": b"rec1 /x/rec1.wav\nrec2 /x/rec2.wav\nrec3 sox a.sph -t wav - |\n",
    "segments": b"u1 rec1 0.5 2\nu2 rec1 3.5 4.25\nu3 rec2 0 1\n",
    "text": b"u1 good morning\nu2 how are you\nu3 yes\n",
    "utt2spk": b"u1 ann\nu2 bob\nu3 ann\n",
    "spk2utt": b"ann u1 u3\nbob u2\n",
    "spk2gender": b"ann f\nbob m\n",
    "utt2lang": b"u1 en\nu2 en\n",
}
SAMPLES: Mapping[str, Files] = {
    "jsonl": {"m.jsonl": _lines(*_ROWS)},
    "array": {"m.json": json.dumps(_ROWS).encode()},
    "csv": {"m.csv": _CSV.encode()},
    "tsv": {"m.tsv": b'doc_id\ttext\tlabels.x\tage\na\thello "you"\t1\t3.5\nb\t"bye\tnow"\ttrue\t1e3\n'},
    "semicolons": {"m.csv": b"sep=;\ndoc_id;text;labels.x;dose\na;hello;1,5;3,5\nb;bye;2,5;\n"},
    "index": {"m.csv": b",doc_id,text\n0,a,hello\n1,b,bye\n"},
    "utf-16": {"m.csv": _CSV.encode("utf-16")},
    "gzip": {"m.csv.gz": gzip.compress(_CSV.encode(), mtime=0)},
    "bz2": {"m.jsonl.bz2": bz2.compress(_lines(*_ROWS))},
    "xz": {"m.jsonl.xz": lzma.compress(_lines(*_ROWS))},
    "parquet": {"m.parquet": _written(_TABLE, "parquet")},
    "parquet of turns": {"m.parquet": _written(_TURN_TABLE, "parquet")},
    "feather": {"m.feather": _written(_TABLE, "feather")},
    "arrow": {"m.arrow": _written(_TURN_TABLE, "stream")},
    "nemo": {
        "m.json": _lines(
            {"audio_filepath": "a.wav", "duration": 5.5, "text": "whole", "speaker": "s1", "lang": "de"},
            {
                "audio_filepath": "b.wav",
                "offset": 4.0,
                "duration": 1.5,
                "text": "second",
                "speaker": 2,
                "label": "x",
            },
            {
                "audio_filepath": "b.wav",
                "offset": 0.5,
                "duration": 1.0,
                "text": "first",
                "speaker": 1,
                "label": "x",
            },
        )
    },
    "cuts": {"m.jsonl": _lines(_CUT, {**_CUT, "start": 5.0})},
    "lhotse": {"x_recordings_a.jsonl": _lines(_RECORDING), "x_supervisions_a.jsonl": _lines(_SUPERVISION)},
    "kaldi": _KALDI,
    "save_to_disk": {
        "dataset_dict.json": b'{"splits": ["train"]}',
        "train/state.json": b'{"_data_files": [{"filename": "data-0.arrow"}], "_split": "train"}',
        "train/data-0.arrow": _written(_TURN_TABLE, "stream"),
    },
    "audiofolder": {
        "train/metadata.csv": b"file_name,transcription,label,age\na.wav,one,x,3\nb/c.wav,two,y,4\n",
        "test/metadata.jsonl": _lines({"file_name": "d.wav", "text": "three", "label": "x"}),
    },
}
"""Files by name; where there are several, or subfolders, the manifest is the folder."""
