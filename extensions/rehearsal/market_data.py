# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rehearsed RunPod market sells: the GPU types of 2026-02-26, with prices in USD per GPU and hour.

A row marked `sampled` carries prices seen on that day; in the other rows they are estimates of the right order. `None` is unknown, not free.
"""

from __future__ import annotations

from typing import NamedTuple

PRICES_AS_OF = "2026-02-26"


class GpuRow(NamedTuple):
    id: str
    name: str
    memory_gib: int
    secure: str | None
    community: str | None
    secure_spot: str | None
    community_spot: str | None
    sampled: bool
    max_count: int
    compute_cap: str
    memory_mib: int
    power_w: int


GPU_ROWS: tuple[GpuRow, ...] = (
    GpuRow("AMD Instinct MI300X OAM", "MI300X", 192, "2.49", None, "1.99", None, False, 8, "", 196592, 750),
    GpuRow("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, "1.39", "1.19", "0.82", "0.60", True, 8, "8.0", 81920, 300),
    GpuRow("NVIDIA A100-SXM4-80GB", "A100 SXM", 80, "1.49", "1.39", "0.95", "0.79", False, 8, "8.0", 81920, 400),
    GpuRow("NVIDIA A30", "A30", 24, "0.34", "0.22", None, "0.11", False, 8, "8.0", 24576, 165),
    GpuRow("NVIDIA A40", "A40", 48, "0.40", "0.35", "0.24", "0.20", False, 9, "8.6", 46068, 300),
    GpuRow("NVIDIA B200", "B200", 180, "4.99", "5.98", "3.59", None, True, 8, "10.0", 183359, 1000),
    GpuRow("NVIDIA B300 SXM6 AC", "B300", 288, None, None, None, None, False, 8, "10.3", 275040, 1100),
    GpuRow("NVIDIA GeForce RTX 3070", "RTX 3070", 8, None, "0.13", None, "0.07", False, 6, "8.6", 8192, 220),
    GpuRow("NVIDIA GeForce RTX 3080", "RTX 3080", 10, None, "0.17", None, "0.09", False, 6, "8.6", 10240, 320),
    GpuRow("NVIDIA GeForce RTX 3080 Ti", "RTX 3080 Ti", 12, None, "0.18", None, "0.09", False, 6, "8.6", 12288, 350),
    GpuRow("NVIDIA GeForce RTX 3090", "RTX 3090", 24, "0.46", "0.22", "0.22", "0.11", True, 8, "8.6", 24576, 350),
    GpuRow("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti", 24, "0.46", "0.27", None, "0.14", False, 6, "8.6", 24564, 450),
    GpuRow("NVIDIA GeForce RTX 4070 Ti", "RTX 4070 Ti", 12, None, "0.19", None, "0.10", False, 6, "8.9", 12282, 285),
    GpuRow("NVIDIA GeForce RTX 4080", "RTX 4080", 16, "0.50", "0.27", None, "0.16", False, 6, "8.9", 16376, 320),
    GpuRow("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER", 16, None, "0.28", None, "0.17", False, 6, "8.9", 16376, 320),
    GpuRow("NVIDIA GeForce RTX 4090", "RTX 4090", 24, "0.59", "0.34", "0.29", "0.20", True, 8, "8.9", 24564, 450),
    GpuRow("NVIDIA GeForce RTX 5080", "RTX 5080", 16, None, "0.39", None, "0.22", False, 6, "12.0", 16303, 360),
    GpuRow("NVIDIA GeForce RTX 5090", "RTX 5090", 32, "0.89", "0.69", "0.53", "0.42", True, 8, "12.0", 32607, 575),
    GpuRow("NVIDIA H100 80GB HBM3", "H100 SXM", 80, "2.69", "2.69", "1.75", "1.50", True, 8, "9.0", 81559, 700),
    GpuRow("NVIDIA H100 NVL", "H100 NVL", 94, "3.07", "2.59", "1.65", "1.40", False, 8, "9.0", 95830, 400),
    GpuRow("NVIDIA H100 PCIe", "H100 PCIe", 80, "2.39", "1.99", "1.35", "1.25", False, 8, "9.0", 81559, 350),
    GpuRow("NVIDIA H200", "H200 SXM", 141, "3.59", "3.59", "2.29", None, False, 8, "9.0", 143771, 700),
    GpuRow("NVIDIA H200 NVL", "NVIDIA H200 NVL", 143, None, None, None, None, False, 8, "9.0", 143771, 600),
    GpuRow("NVIDIA L4", "L4", 24, "0.39", "0.44", "0.22", None, True, 8, "8.9", 23034, 72),
    GpuRow("NVIDIA L40", "L40", 48, "0.99", "0.69", "0.50", "0.35", False, 8, "8.9", 46068, 300),
    GpuRow("NVIDIA L40S", "L40S", 48, "0.86", "0.79", "0.43", "0.26", False, 8, "8.9", 46068, 350),
    GpuRow("NVIDIA RTX 2000 Ada Generation", "RTX 2000 Ada", 16, "0.24", "0.22", "0.14", "0.12", False, 8, "8.9", 16380, 70),
    GpuRow("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada", 20, "0.26", "0.20", "0.16", "0.10", False, 8, "8.9", 20475, 130),
    GpuRow("NVIDIA RTX 4000 SFF Ada Generation", "RTX 4000 Ada SFF", 20, None, "0.18", None, "0.09", False, 8, "8.9", 20475, 70),
    GpuRow("NVIDIA RTX 5000 Ada Generation", "RTX 5000 Ada", 32, "0.65", "0.51", None, "0.31", False, 8, "8.9", 32760, 250),
    GpuRow("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 48, "0.77", "0.74", "0.47", "0.36", False, 8, "8.9", 49140, 300),
    GpuRow("NVIDIA RTX A2000", "RTX A2000", 6, "0.12", "0.12", None, "0.06", False, 8, "8.6", 6138, 70),
    GpuRow("NVIDIA RTX A4000", "RTX A4000", 16, "0.25", "0.17", "0.15", "0.09", False, 9, "8.6", 16376, 140),
    GpuRow("NVIDIA RTX A4500", "RTX A4500", 20, "0.25", "0.19", "0.15", "0.10", False, 9, "8.6", 20470, 200),
    GpuRow("NVIDIA RTX A5000", "RTX A5000", 24, "0.27", "0.16", "0.16", "0.09", False, 9, "8.6", 24564, 230),
    GpuRow("NVIDIA RTX A6000", "RTX A6000", 48, "0.49", "0.33", "0.29", "0.22", False, 9, "8.6", 49140, 300),
    GpuRow("NVIDIA RTX PRO 4500 Blackwell", "RTX PRO 4500", 32, "0.64", None, None, None, False, 8, "12.0", 32623, 200),
    GpuRow("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 MaxQ", 96, None, None, None, None, False, 8, "12.0", 97887, 300),
    GpuRow("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000", 96, "1.84", "1.69", "1.05", None, False, 8, "12.0", 97887, 600),
    GpuRow("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 WK", 96, "2.09", "1.69", "0.95", None, False, 8, "12.0", 97887, 600),
    GpuRow("Tesla V100-PCIE-16GB", "Tesla V100", 16, None, "0.19", None, "0.10", False, 8, "7.0", 16384, 250),
    GpuRow("Tesla V100-SXM2-16GB", "V100 SXM2", 16, "0.23", "0.17", None, "0.10", False, 8, "7.0", 16384, 300),
    GpuRow("Tesla V100-SXM2-32GB", "V100 SXM2 32GB", 32, "0.29", None, "0.17", None, False, 8, "7.0", 32768, 300),
    GpuRow("unknown", "unknown", 0, None, None, None, None, False, 0, "", 0, 0),
)


class DataCenterRow(NamedTuple):
    id: str
    name: str
    region: str
    # What network volumes it offers; none in some.
    volume_types: tuple[str, ...] = ("STANDARD",)


DATA_CENTERS: tuple[DataCenterRow, ...] = (
    DataCenterRow("EU-RO-1", "EU-RO-1", "EUROPE"),
    DataCenterRow("EU-CZ-1", "EU-CZ-1", "EUROPE"),
    DataCenterRow("EU-SE-1", "EU-SE-1", "EUROPE"),
    DataCenterRow("EU-NL-1", "EU-NL-1", "EUROPE"),
    DataCenterRow("EUR-IS-1", "EUR-IS-1", "EUROPE"),
    DataCenterRow("EUR-IS-2", "EUR-IS-2", "EUROPE"),
    DataCenterRow("EUR-NO-1", "EUR-NO-1", "EUROPE"),
    DataCenterRow("US-CA-2", "US-CA-2", "NORTH_AMERICA"),
    DataCenterRow("US-GA-1", "US-GA-1", "NORTH_AMERICA"),
    DataCenterRow("US-GA-2", "US-GA-2", "NORTH_AMERICA"),
    DataCenterRow("US-IL-1", "US-IL-1", "NORTH_AMERICA"),
    DataCenterRow("US-KS-2", "US-KS-2", "NORTH_AMERICA", ("STANDARD", "HIGH_PERFORMANCE")),
    DataCenterRow("US-NC-1", "US-NC-1", "NORTH_AMERICA"),
    DataCenterRow("US-TX-3", "US-TX-3", "NORTH_AMERICA"),
    DataCenterRow("US-WA-1", "US-WA-1", "NORTH_AMERICA"),
    DataCenterRow("CA-MTL-1", "CA-MTL-1", "NORTH_AMERICA"),
    DataCenterRow("CA-MTL-3", "CA-MTL-3", "NORTH_AMERICA"),
    DataCenterRow("AP-JP-1", "AP-JP-1", "ASIA"),
    DataCenterRow("OC-AU-1", "OC-AU-1", "OCEANIA", ()),
)
# These have stock in the first data center from the start, so that a rehearsal is not a lottery.
ALWAYS_IN_STOCK = {"NVIDIA GeForce RTX 4090": 12, "NVIDIA GeForce RTX 3090": 12, "NVIDIA L4": 8, "NVIDIA H100 80GB HBM3": 8, "NVIDIA RTX A4000": 10}
CUDA_VERSIONS = ("11.8", "12.4", "12.8", "13.0")
CPU_FLAVORS = {"cpu3c": "0.03", "cpu3g": "0.04", "cpu3m": "0.05", "cpu5c": "0.035", "cpu5g": "0.045", "cpu5m": "0.055"}
DISK_USD_PER_GIB_MONTH = "0.10"
VOLUME_STOPPED_USD_PER_GIB_MONTH = "0.20"
NETWORK_VOLUME_USD_PER_GIB_MONTH = "0.07"
HOURS_PER_MONTH = 730
