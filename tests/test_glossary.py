"""The glossary names every technique in Chinese too, leads to every chapter, and is in order."""

import re

import pytest

from labs_found import ROOT

TEXT = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"(?m)^(\w.*)\n  (.+)$", TEXT.split("```{glossary}")[1])
TECHNIQUES = {
    "02_architecture": ("深度可分离卷积", "深度可分離卷積"),
    "03_binaryconnect": ("二值化",),
    "04_pruning": ("剪枝", "稀疏", "多样性"),
    "05_weight_sharing": ("权重共享", "聚类", "霍夫曼编码", "码本"),
    "06_low_rank": ("低秩分解", "奇异值分解"),
    "07_distillation": ("知识蒸馏", "知識蒸餾", "迁移学习", "遷移學習"),
    "08_slimming": ("剪枝", "敏感度分析"),
    "09_quantization": ("量化", "对称量化", "對稱量化", "非對稱量化", "训练后量化", "折叠"),
    "09b_qat": ("量化感知训练", "感知量化", "位寬", "伪量化"),
    "10_edge_recipe": ("邊緣計算", "特徵圖尺寸壓縮"),
    "11_fpga_datapath": ("累加器", "重量化"),
    "12_fpga_pipeline": ("流水线", "流水線", "行缓冲", "行緩存", "并行度", "設計空間探索"),
}


@pytest.mark.parametrize("chapter", TECHNIQUES)
def test_a_technique_has_its_chinese_terms(chapter: str) -> None:
    text = " ".join(words for _, words in ENTRIES if f"{{doc}}`{chapter}`" in words)
    assert [term for term in TECHNIQUES[chapter] if term not in text] == []


def test_every_chapter_is_reached() -> None:
    chapters = {path.stem for path in (ROOT / "book").glob("[01]*_*.md")}
    assert {chapter for chapter in chapters if f"{{doc}}`{chapter}`" not in TEXT} <= {
        "13_scoreboard"
    }


def test_the_entries_are_in_order_and_begin_in_chinese() -> None:
    plain = [re.sub(r"[^a-z0-9 ]", "", term.lower().replace("-", " ")) for term, _ in ENTRIES]
    assert len(plain) > 70
    assert plain == sorted(plain)
    for term, words in ENTRIES:
        assert re.search(r"[\u4e00-\u9fff]", words.split(". ")[0]), term
