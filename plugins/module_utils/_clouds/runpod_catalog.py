# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's GPU models as they were on one day, for ranking and estimates without its API. Never a price of today.

Source: the gpuTypes query of RunPod's GraphQL API, collected on the day below; it lists a GPU named "unknown" too.
"""

from __future__ import annotations

AS_OF = "2026-02-26"
SOURCE = "RunPod's GraphQL API, gpuTypes"
# id, display name, memory of one GPU in GB
GPUS = (
    ("AMD Instinct MI300X OAM", "MI300X", 192),
    ("NVIDIA A100 80GB PCIe", "A100 PCIe", 80),
    ("NVIDIA A100-SXM4-80GB", "A100 SXM", 80),
    ("NVIDIA A30", "A30", 24),
    ("NVIDIA A40", "A40", 48),
    ("NVIDIA B200", "B200", 180),
    ("NVIDIA B300 SXM6 AC", "B300", 288),
    ("NVIDIA GeForce RTX 3070", "RTX 3070", 8),
    ("NVIDIA GeForce RTX 3080", "RTX 3080", 10),
    ("NVIDIA GeForce RTX 3080 Ti", "RTX 3080 Ti", 12),
    ("NVIDIA GeForce RTX 3090", "RTX 3090", 24),
    ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti", 24),
    ("NVIDIA GeForce RTX 4070 Ti", "RTX 4070 Ti", 12),
    ("NVIDIA GeForce RTX 4080", "RTX 4080", 16),
    ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER", 16),
    ("NVIDIA GeForce RTX 4090", "RTX 4090", 24),
    ("NVIDIA GeForce RTX 5080", "RTX 5080", 16),
    ("NVIDIA GeForce RTX 5090", "RTX 5090", 32),
    ("NVIDIA H100 80GB HBM3", "H100 SXM", 80),
    ("NVIDIA H100 NVL", "H100 NVL", 94),
    ("NVIDIA H100 PCIe", "H100 PCIe", 80),
    ("NVIDIA H200", "H200 SXM", 141),
    ("NVIDIA H200 NVL", "NVIDIA H200 NVL", 143),
    ("NVIDIA L4", "L4", 24),
    ("NVIDIA L40", "L40", 48),
    ("NVIDIA L40S", "L40S", 48),
    ("NVIDIA RTX 2000 Ada Generation", "RTX 2000 Ada", 16),
    ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada", 20),
    ("NVIDIA RTX 4000 SFF Ada Generation", "RTX 4000 Ada SFF", 20),
    ("NVIDIA RTX 5000 Ada Generation", "RTX 5000 Ada", 32),
    ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 48),
    ("NVIDIA RTX A2000", "RTX A2000", 6),
    ("NVIDIA RTX A4000", "RTX A4000", 16),
    ("NVIDIA RTX A4500", "RTX A4500", 20),
    ("NVIDIA RTX A5000", "RTX A5000", 24),
    ("NVIDIA RTX A6000", "RTX A6000", 48),
    ("NVIDIA RTX PRO 4500 Blackwell", "RTX PRO 4500", 32),
    ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 MaxQ", 96),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000", 96),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 WK", 96),
    ("Tesla V100-PCIE-16GB", "Tesla V100", 16),
    ("Tesla V100-SXM2-16GB", "V100 SXM2", 16),
    ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB", 32),
    ("unknown", "unknown", 0),
)
# Dollars an hour for one GPU on that day, where they are known: secure, community, secure spot, community spot; None is not known.
PRICES: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    "NVIDIA GeForce RTX 3090": ("0.46", "0.22", "0.22", "0.11"),
    "NVIDIA GeForce RTX 4090": ("0.59", "0.34", "0.29", "0.20"),
    "NVIDIA GeForce RTX 5090": ("0.89", "0.69", None, None),
    "NVIDIA L4": ("0.39", "0.44", None, None),
    "NVIDIA A100 80GB PCIe": ("1.39", "1.19", None, None),
    "NVIDIA H100 80GB HBM3": ("2.69", "2.69", "1.75", "1.50"),
    "NVIDIA B200": ("4.99", "5.98", None, None),
}
