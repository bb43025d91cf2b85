"""LIDC-IDRI's XML as text: readings drawn by hand."""

from lungadv.data.lidc_xml import read_lidc

MESSAGE = '<{root} xmlns="{space}"><ResponseHeader>{header}</ResponseHeader>{body}</{root}>'


LIDC = {"root": "LidcReadMessage", "space": "http://www.nih.gov", "header": "<SeriesInstanceUid>a</SeriesInstanceUid>"}


def points_xml(name, points):
    return "".join(f"<{name}><xCoord>{x}</xCoord><yCoord>{y}</yCoord></{name}>" for x, y in points)


def nodule_xml(*rois, texture=5, calcification=6, rated=True):
    """A nodule of rois (z, inclusion, points)."""
    ratings = f"<characteristics><texture>{texture}</texture><calcification>{calcification}</calcification></characteristics>"
    drawn = "".join(
        f"<roi><imageZposition>{z} </imageZposition><imageSOP_UID>sop{z}</imageSOP_UID><inclusion>{inclusion}</inclusion>"
        f"{points_xml('edgeMap', points)}</roi>"
        for z, inclusion, points in rois
    )
    return f"<unblindedReadNodule><noduleID>n</noduleID>{ratings if rated else ''}{drawn}</unblindedReadNodule>"


def non_nodule_xml(z, point):
    return f"<nonNodule><nonNoduleID>x</nonNoduleID><imageZposition>{z}</imageZposition>{points_xml('locus', [point])}</nonNodule>"


def session_xml(*findings):
    return f"<readingSession><servicingRadiologistID>r</servicingRadiologistID>{''.join(findings)}</readingSession>"


def read(folder, *sessions, **message):
    (folder / "reading.xml").write_text(MESSAGE.format(**LIDC | {"body": "".join(sessions)} | message))
    return read_lidc(folder / "reading.xml")


def box(x, y, width, height):
    """A closed outline that encloses width x height pixels from (x, y)."""
    return [(x - 1, y - 1), (x + width, y - 1), (x + width, y + height), (x - 1, y + height), (x - 1, y - 1)]


def message(*rois, **ratings):
    return MESSAGE.format(**LIDC, body=session_xml(nodule_xml(*rois, **ratings)))
