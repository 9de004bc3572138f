"""The tree is RFC 6962's, every proof of it verifies, and nothing else does."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.crypto.merkle import EMPTY, Frontier, Head, Tree, leaf_hash

# The inputs, subtree roots and proofs that Certificate Transparency's implementations share
# (github.com/google/certificate-transparency, later transparency-dev/merkle).
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
L0 = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
L1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
L4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
L01 = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
L23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
L45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
L67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
L0123 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
L4567 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = {
    (0, 1): [],
    (0, 8): [L1, L23, L4567],
    (5, 8): [L4, L67, L0123],
    (2, 3): [L01],
    (1, 5): [L0, L23, L4],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [L1, L23, L4567],
    (6, 8): [L45, L67, L0123],
    (2, 5): [L23, L4],
}

MOST = 40


def tree_of(entries: Sequence[bytes]) -> Tree:
    return Tree(map(leaf_hash, entries))


def numbered(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


def by_definition(entries: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while 2 * k < len(entries):
        k *= 2
    halves = by_definition(entries[:k]) + by_definition(entries[k:])
    return hashlib.sha256(b"\x01" + halves).digest()


TREE = tree_of(numbered(MOST))
HEADS = [TREE.head(size) for size in range(MOST + 1)]


@pytest.mark.parametrize("size", range(9))
def test_the_reference_roots(size: int) -> None:
    assert tree_of(ENTRIES).head(size) == Head(size, ROOTS[size])
    assert Frontier().extended(map(leaf_hash, ENTRIES[:size])).head.root == ROOTS[size]


@pytest.mark.parametrize("where", INCLUSION)
def test_the_reference_inclusion_proofs(where: tuple[int, int]) -> None:
    index, size = where
    proof = tree_of(ENTRIES).inclusion(index, size)
    assert [part.hex() for part in proof] == INCLUSION[where]
    assert Head(size, ROOTS[size]).includes(index, leaf_hash(ENTRIES[index]), proof)


@pytest.mark.parametrize("where", CONSISTENCY)
def test_the_reference_consistency_proofs(where: tuple[int, int]) -> None:
    older, size = where
    proof = tree_of(ENTRIES).consistency(older, size)
    assert [part.hex() for part in proof] == CONSISTENCY[where]
    assert Head(size, ROOTS[size]).extends(Head(older, ROOTS[older]), proof)


@given(st.lists(st.binary(max_size=40), max_size=70), st.data())
def test_frontier_and_tree_are_the_definition(entries: list[bytes], data: st.DataObject) -> None:
    """However the entries come in batches."""
    frontier, left = Frontier(), list(entries)
    while left:
        taken = data.draw(st.integers(1, len(left)))
        frontier = frontier.extended(map(leaf_hash, left[:taken]))
        left = left[taken:]
        size = len(entries) - len(left)
        assert frontier.head == tree_of(entries).head(size)
        assert frontier.head.root == by_definition(entries[:size])
        assert len(frontier.roots) == size.bit_count()


def test_every_inclusion_proof_verifies() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = TREE.inclusion(index, size)
            assert len(proof) <= (size - 1).bit_length()
            assert HEADS[size].includes(index, leaf_hash(b"entry %d" % index), proof)


def test_every_consistency_proof_verifies() -> None:
    for size in range(MOST + 1):
        for older in range(size + 1):
            proof = TREE.consistency(older, size)
            assert len(proof) <= size.bit_length() + 1
            assert HEADS[size].extends(HEADS[older], proof)


def test_an_inclusion_proof_is_good_for_one_entry_and_one_head() -> None:
    """Another number, another entry, another head of the same log: all refused."""
    for size in range(1, MOST + 1, 3):
        for index in range(size):
            proof, leaf = TREE.inclusion(index, size), leaf_hash(b"entry %d" % index)
            for other in {*range(MOST), -1, size, 1 << 40} - {index}:
                assert not HEADS[size].includes(other, leaf, proof)
            for other in range(MOST):
                assert other == index or not HEADS[size].includes(
                    index, leaf_hash(b"entry %d" % other), proof
                )
            for other in range(MOST + 1):
                assert other == size or not HEADS[other].includes(index, leaf, proof)


def test_a_consistency_proof_is_good_for_one_pair_of_heads() -> None:
    for older in range(1, 20):
        for size in range(older + 1, 20):
            proof = TREE.consistency(older, size)
            for a in HEADS[1:20]:
                for b in HEADS[1:20]:
                    wanted = (a.size, b.size) == (older, size)
                    assert b.extends(a, proof) == wanted, (older, size, a.size, b.size)


def test_the_size_of_a_head_counts() -> None:
    """A right root with another size is another head: the path's length and turns tell them apart,
    except where entry and path are at the same place in both trees, which a signed head rules out.
    """
    for older in range(1, 20):
        for size in range(older + 1, 20):
            proof = TREE.consistency(older, size)
            for wrong in set(range(older + 1)) - {older}:
                if wrong:
                    assert not HEADS[size].extends(replace(HEADS[older], size=wrong), proof)
    for size in range(2, MOST):
        last = TREE.inclusion(size - 1, size)
        for wrong in range(1, size):
            entry = leaf_hash(b"entry %d" % (size - 1))
            assert not replace(HEADS[size], size=wrong).includes(size - 1, entry, last)


def changes(proof: Sequence[bytes]) -> list[list[bytes]]:
    """Every bit flipped; a part cut short, left out, doubled, added; two parts swapped."""
    found = []
    for at, part in enumerate(proof):
        for bit in range(8 * len(part)):
            flipped = bytearray(part)
            flipped[bit // 8] ^= 1 << bit % 8
            found.append([*proof[:at], bytes(flipped), *proof[at + 1 :]])
        found.append([*proof[:at], part[:-1], *proof[at + 1 :]])
        found.append([*proof[:at], *proof[at + 1 :]])
        found.append([*proof[:at], part, *proof[at:]])
        found += [
            [*proof[:at], proof[at + 1], part, *proof[at + 2 :]] for _ in proof[at + 1 : at + 2]
        ]
    return [*found, [*proof, bytes(32)], [bytes(32), *proof]]


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2), (3, 7), (6, 7), (12, 13), (20, 37)])
def test_a_changed_inclusion_proof_is_refused(index: int, size: int) -> None:
    leaf = leaf_hash(b"entry %d" % index)
    proof = TREE.inclusion(index, size)
    for changed in changes(proof):
        assert not HEADS[size].includes(index, leaf, changed)
    for (flipped,) in changes([leaf])[:256]:
        assert not HEADS[size].includes(index, flipped, proof)
    for (flipped,) in changes([HEADS[size].root])[:256]:
        assert not Head(size, flipped).includes(index, leaf, proof)


@pytest.mark.parametrize(
    ("older", "size"), [(0, 5), (5, 5), (1, 2), (3, 7), (4, 7), (8, 9), (6, 37)]
)
def test_a_changed_consistency_proof_is_refused(older: int, size: int) -> None:
    proof = TREE.consistency(older, size)
    for changed in changes(proof):
        assert not HEADS[size].extends(HEADS[older], changed)
    if older:
        for (flipped,) in changes([HEADS[size].root])[:256]:
            assert not Head(size, flipped).extends(HEADS[older], proof)
        for (flipped,) in changes([HEADS[older].root])[:256]:
            assert not HEADS[size].extends(Head(older, flipped), proof)


@given(st.integers(1, MOST - 1), st.data())
def test_another_past_is_not_extended(size: int, data: st.DataObject) -> None:
    """One entry of the older tree differs: its own proof towards its own future shows nothing
    about ours."""
    older = data.draw(st.integers(1, size))
    changed = numbered(MOST)
    changed[data.draw(st.integers(0, older - 1))] = b"another"
    other = tree_of(changed)
    assert not HEADS[size].extends(other.head(older), TREE.consistency(older, size))
    assert not HEADS[size].extends(other.head(older), other.consistency(older, size))
    assert not other.head(size).extends(HEADS[older], other.consistency(older, size))


def test_an_inner_node_is_not_an_entry() -> None:
    """Second preimages: the two hashes below a node, taken for an entry, do not hash to it."""
    tree = tree_of([b"a", b"b"])
    fake = leaf_hash(b"a") + leaf_hash(b"b")
    assert not Head(1, tree.head(2).root).includes(0, leaf_hash(fake), [])


def test_a_newer_head_does_not_go_back() -> None:
    assert not HEADS[3].extends(HEADS[4], [])
    assert not HEADS[3].extends(HEADS[4], TREE.consistency(3, 4))
    assert HEADS[3].extends(HEADS[0], [])
    assert HEADS[0].extends(HEADS[0], [])
    assert not HEADS[0].extends(HEADS[1], [])


def test_what_cannot_be_is_not_built() -> None:
    for size, root in ((-1, EMPTY), (1 << 63, EMPTY), (1, EMPTY[1:]), (0, bytes(32))):
        with pytest.raises(ParameterError):
            Head(size, root)
    for wrong in ((0, 0), (-1, 3), (3, 3), (0, MOST + 1)):
        with pytest.raises(ParameterError):
            TREE.inclusion(*wrong)
    for wrong in ((-1, 3), (4, 3), (0, MOST + 1)):
        with pytest.raises(ParameterError):
            TREE.consistency(*wrong)
    with pytest.raises(ParameterError):
        TREE.head(MOST + 1)
    with pytest.raises(ParameterError):
        Tree([b"not a hash"])
