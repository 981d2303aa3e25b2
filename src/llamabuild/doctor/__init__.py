"""A report on any machine, one page long, that changes nothing and needs nothing installed."""

from __future__ import annotations

from llamabuild.doctor.examination import examine
from llamabuild.doctor.model import Line, Report, Section, Status
from llamabuild.doctor.surroundings import Surroundings

__all__ = ["Line", "Report", "Section", "Status", "Surroundings", "examine"]
